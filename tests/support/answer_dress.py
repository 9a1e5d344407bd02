"""Pairs of answers from a seed: equal in other dress, or surely different by one digit, sign, unit, bound or name.

    from support.answer_dress import pairs
    for pair in pairs(seed=0, n=300): ...

Which of both a pair is follows from how it was made, and from values of its own (`dress_formulas`), not from the grader.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from support import dress_shapes
from support.dress_formulas import (
    IMAGINARY,
    PI,
    VARIABLES,
    E,
    Formula,
    add,
    agree,
    apply,
    binomial,
    changed,
    differ,
    name,
    number,
    over,
    power,
    rewritten,
    root,
    times,
)
from support.dress_formulas import names as names_of
from support.dress_measures import MEASURES, choose_dress
from support.dress_spelling import Pen

Two = tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """An answer and a gold answer; `equal` says whether the answer is right."""

    kind: str
    answer: str
    gold: str
    equal: bool


def pairs(seed: int, n: int) -> Iterator[Pair]:
    """Yield n pairs: every second one is equal, and the kinds take turns."""
    kinds = list(MAKERS)
    for i in range(n):
        draw = random.Random(f"answer dress {seed} {i}")
        kind = kinds[i // 2 % len(kinds)]
        equal = i % 2 == 0
        for _ in range(50):
            answer, gold = MAKERS[kind](draw, equal)
            if answer != gold:
                break
        yield Pair(kind, answer, gold, equal)


def formulas(make: Callable[[random.Random], Formula]) -> Callable[[random.Random, bool], Two]:
    """Return a maker of pairs from a maker of formulas."""

    def two(draw: random.Random, equal: bool) -> Two:
        ours = make(draw)
        theirs = rewritten(ours, draw) if equal else changed(ours, draw)
        if not equal and draw.random() < 0.5:
            theirs = rewritten(theirs, draw)
        if equal != agree(ours, theirs, draw) or equal == differ(ours, theirs, draw):
            return two(draw, equal)
        texts = []
        named = draw.randrange(2)  # "A = 5" for "S = 5" is nobody's dress
        for i, formula in enumerate((theirs, ours)):
            texts.append(dressed(formula, draw, named=i == named))
        return texts[0], texts[1]

    return two


def dressed(formula: Formula, draw: random.Random, *, named: bool) -> str:
    """Write a formula; sometimes with a name in front, a sign of display, or fullwidth digits."""
    text = Pen(draw).write(formula)
    if named and draw.random() < 0.25:
        free = ["A", "S", "z", "V", "M", *(["f(x)", "y"] if names_of(formula) == {"x"} else [])]
        text = draw.choice(free) + draw.choice([" = ", "=", r" \,=\, "]) + text
    return choose_dress(text, draw)


def integers(draw: random.Random) -> Formula:
    return number(draw.randint(1, 10 ** draw.choice([1, 2, 3, 4, 5, 7, 12])) * draw.choice([1, 1, 1, -1]))


def fractions(draw: random.Random) -> Formula:
    return number(
        draw.randint(1, 999) * draw.choice([1, 1, -1]), draw.choice([2, 3, 4, 5, 6, 7, 8, 9, 16, 20, 25, 125, 1001])
    )


def surds(draw: random.Random) -> Formula:
    n = draw.choice([2, 3, 5, 6, 7, 8, 12, 18, 20, 27, 45, 50, 72, 75, 98])
    surd = root(number(n), draw.choice([2, 2, 2, 3]))
    a, b = number(draw.randint(2, 12)), number(draw.randint(2, 9))
    forms = [times(a, surd), add(a, surd), over(add(a, times(number(-1), surd)), b), over(surd, a), over(a, surd)]
    forms += [add(times(a, surd), root(number(draw.choice([2, 3, 5, 7, 11])))), surd, over(times(a, surd), b)]
    forms.append(root(add(a, surd)))
    return draw.choice(forms)


def powers(draw: random.Random) -> Formula:
    a, b, n = draw.randint(2, 9), draw.randint(1, 9), draw.randint(2, 30)
    forms = [power(number(a), n), times(number(b), power(number(a), n)), add(power(number(a), n), number(-1))]
    forms += [power(number(a), number(b, 3)), over(number(1), power(number(a), n)), power(number(a), -n)]
    forms.append(over(add(power(number(a), n), number(-b)), number(b + 1)))
    return draw.choice(forms)


def multiples_of_pi(draw: random.Random) -> Formula:
    a, b = draw.randint(2, 99), draw.choice([2, 3, 4, 6, 7, 12])
    forms = [times(number(a), PI), over(times(number(a), PI), number(b)), over(PI, number(b)), times(number(a, b), PI)]
    forms += [
        add(times(number(a), PI), number(b)),
        add(number(a), times(number(-b), PI)),
        over(power(PI, 2), number(b)),
    ]
    return draw.choice(forms)


def _letter(draw: random.Random) -> Formula:
    return name(draw.choice(VARIABLES))


def polynomials(draw: random.Random) -> Formula:
    x, y = _letter(draw), _letter(draw)
    terms = []
    for n in draw.sample([0, 1, 2, 3, 4], draw.randint(2, 4)):
        c = draw.randint(1, 12) * draw.choice([1, 1, -1])
        base = [] if n == 0 else [x] if n == 1 else [power(x, n)]
        terms.append(times(number(c), *base) if c != 1 or not base else times(*base))
    linear = add(x, number(draw.randint(-9, -1)))
    forms = [add(*terms), add(*terms), times(number(draw.randint(2, 9)), linear, add(x, number(draw.randint(1, 9))))]
    forms += [
        power(add(x, number(draw.randint(1, 9))), draw.randint(2, 3)),
        times(x, add(y, number(draw.randint(1, 9)))),
    ]
    forms.append(add(power(x, 2), times(number(2), x, y), power(y, 2)))
    return draw.choice(forms)


def rational_functions(draw: random.Random) -> Formula:
    x = _letter(draw)
    a, b, c = (number(draw.randint(1, 9)) for _ in range(3))
    forms = [over(a, add(x, b)), over(add(x, a), add(x, b)), add(x, over(a, x)), over(add(power(x, 2), a), times(b, x))]
    forms += [over(times(a, x), add(power(x, 2), b)), add(over(a, x), over(b, add(x, c))), power(add(x, a), -2)]
    return draw.choice(forms)


def trigonometry(draw: random.Random) -> Formula:
    x, a = _letter(draw), number(draw.randint(2, 9))
    function = draw.choice(["sin", "cos", "tan"])
    inside = draw.choice([x, times(a, x), add(x, over(PI, number(draw.randint(2, 6)))), over(x, a)])
    angle = over(times(number(draw.choice([1, 2, 5, 7])), PI), number(draw.choice([5, 7, 9, 11])))
    forms = [apply(function, inside), times(a, apply(function, inside)), power(apply(function, x), 2)]
    forms += [add(apply("sin", x), apply("cos", times(a, x))), times(a, apply(function, angle)), apply("arctan", a)]
    forms += [times(power(apply("sin", x), 2), apply("cos", x)), add(apply("sin", inside), number(3))]
    return draw.choice(forms)


def logarithms(draw: random.Random) -> Formula:
    x, a = _letter(draw), number(draw.randint(2, 40))
    forms = [apply("ln", a), times(number(draw.randint(2, 9)), apply("ln", a)), apply("ln", add(x, a)), power(E, 2)]
    forms += [power(E, times(a, x)), times(x, power(E, x)), over(apply("ln", a), apply("ln", number(7)))]
    forms += [add(apply("ln", a), number(1)), apply("exp", times(number(-1), x)), add(power(E, x), number(-2))]
    return draw.choice(forms)


def counts(draw: random.Random) -> Formula:
    n = draw.randint(5, 30)
    k = draw.randint(2, n - 2)
    a = number(draw.randint(2, 9))
    forms = [binomial(n, k), times(a, binomial(n, k)), add(binomial(n, k), number(-1)), apply("factorial", number(n))]
    forms += [over(apply("factorial", number(n)), power(number(2), k)), times(binomial(n, 2), binomial(n, k))]
    return draw.choice(forms)


def complex_numbers(draw: random.Random) -> Formula:
    a, b = draw.randint(1, 20) * draw.choice([1, -1]), draw.randint(2, 20) * draw.choice([1, -1])
    imaginary = times(number(b), IMAGINARY)
    forms = [
        add(number(a), imaginary),
        add(number(a), times(root(number(draw.choice([2, 3, 7]))), IMAGINARY)),
        imaginary,
    ]
    forms += [
        over(add(number(a), imaginary), number(draw.randint(2, 9))),
        add(number(a, 2), times(number(b, 3), IMAGINARY)),
    ]
    return draw.choice(forms)


def absolute_values(draw: random.Random) -> Formula:
    x, a = _letter(draw), number(draw.randint(1, 9))
    return draw.choice([apply("abs", add(x, a)), add(apply("abs", x), a), times(a, apply("abs", x))])


def huge_numbers(draw: random.Random, equal: bool) -> Two:
    n, a = draw.randint(300, 2100), draw.randint(2, 9)
    off = 0 if equal else draw.choice([1, -1, 2, 10, -7])
    gold = draw.choice([(2, n), (3, n), (10, n), (7, n)])
    base, exponent = gold
    texts = [f"{base}^{{{exponent}}}", f"{base**2}^{{{exponent // 2}}}" + rf" \cdot {base}" * (exponent % 2)]
    texts += [rf"{base} \cdot {base}^{{{exponent - 1}}}", rf"\frac{{{base}^{{{exponent + 1}}}}}{{{base}}}"]
    ours, theirs = draw.sample(texts, 2)
    shift = draw.choice([0, 1, -1, a])
    tail = f"{shift + off:+d}" if shift + off else ""
    return f"{theirs}{tail}", ours + (f"{shift:+d}" if shift else "")


def recurring_decimals(draw: random.Random, equal: bool) -> Two:
    length = draw.choice([1, 1, 2, 3])
    block = draw.randint(1, 10**length - 2)
    whole = draw.choice([0, 0, 1, 3])
    value = whole + Fraction(block, 10**length - 1)
    digits = f"{block:0{length}}"
    dots = rf"\dot{{{digits[0]}}}" + (digits[1:-1] + rf"\dot{{{digits[-1]}}}" if length > 1 else "")
    spelled = draw.choice(
        [rf"{whole}.\overline{{{digits}}}", rf"{whole}.\bar{{{digits}}}" if length == 1 else "", f"{whole}.{dots}"]
    )
    spelled = spelled or rf"{whole}.\overline{{{digits}}}"
    other = value if equal else draw.choice([value + 1, value + Fraction(1, 10**length - 1), value / 10, -value])
    if not equal and draw.random() < 0.3:
        return f"{whole}.{digits * 3}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    fraction = Pen(draw).write(number(other))
    return (spelled, fraction) if draw.random() < 0.5 else (fraction, spelled)


def mixed_numbers(draw: random.Random, equal: bool) -> Two:
    whole, bottom = draw.randint(1, 30), draw.choice([2, 3, 4, 5, 7, 8, 9])
    top = draw.randint(1, bottom - 1)
    sign = draw.choice(["", "", "-"])
    texts = [
        rf"{sign}{whole}\frac{{{top}}}{{{bottom}}}",
        f"{sign}{whole} {top}/{bottom}",
        rf"{sign}{whole}\dfrac{{{top}}}{{{bottom}}}",
    ]
    texts += [rf"{sign}{whole}\,\frac{{{top}}}{{{bottom}}}", rf"{sign}{whole} \tfrac{top}{bottom}"]
    value = whole + Fraction(top, bottom)
    others = [
        value + 1,
        value - Fraction(1, bottom),
        Fraction(whole * top, bottom),
        value + Fraction(1, bottom),
        -value,
    ]
    other = value if equal else draw.choice([one for one in others if one != value])
    spelled = Pen(draw).write(number(-other if sign else other))
    return (spelled, draw.choice(texts)) if draw.random() < 0.7 else (draw.choice(texts), spelled)


MAKERS: dict[str, Callable[[random.Random, bool], Two]] = {
    "integers": formulas(integers),
    "fractions and decimals": formulas(fractions),
    "mixed numbers": mixed_numbers,
    "recurring decimals": recurring_decimals,
    "huge numbers": huge_numbers,
    "surds": formulas(surds),
    "powers": formulas(powers),
    "multiples of pi": formulas(multiples_of_pi),
    "polynomials": formulas(polynomials),
    "rational functions": formulas(rational_functions),
    "trigonometry": formulas(trigonometry),
    "logarithms": formulas(logarithms),
    "binomials and factorials": formulas(counts),
    "complex numbers": formulas(complex_numbers),
    "absolute values": formulas(absolute_values),
    "lists": dress_shapes.lists,
    "sets": dress_shapes.sets,
    "points": dress_shapes.points,
    "intervals": dress_shapes.intervals,
    "matrices": dress_shapes.matrices,
    "equations": dress_shapes.equations,
    "plus-minus": dress_shapes.plus_minus,
    "piecewise": dress_shapes.piecewise,
    **MEASURES,
}
