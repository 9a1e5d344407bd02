"""Formulas as trees of their own, with their values, other forms of the same value, and small changes to another value.

Nothing here uses the code under test: values are complex numbers of 60 digits by mpmath, at random points.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from fractions import Fraction

import mpmath

DIGITS = 60
CLOSE = mpmath.mpf(10) ** -40
VARIABLES = ("x", "y", "a", "b", "n", "k", "t")
FUNCTIONS = {
    **{"sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "ln": mpmath.log, "exp": mpmath.exp},
    **{"arctan": mpmath.atan, "abs": abs, "factorial": mpmath.factorial},
}
OTHER_FUNCTION = {"sin": "cos", "cos": "sin", "tan": "sin", "ln": "exp", "exp": "ln", "arctan": "tan"}


@dataclass(frozen=True)
class Formula:
    """An operator and its parts: "number", "name", "pi", "e", "i", "+", "*", "/", "^", "root", "binomial", a function."""

    operator: str
    parts: tuple[Formula, ...] = ()
    number: Fraction = Fraction(0)
    name: str = ""


PI, E, IMAGINARY = Formula("pi"), Formula("e"), Formula("i")


def number(value: int | Fraction, bottom: int = 1) -> Formula:
    return Formula("number", number=Fraction(value) / bottom)


def name(letter: str) -> Formula:
    return Formula("name", name=letter)


def add(*parts: Formula) -> Formula:
    return Formula("+", parts)


def times(*parts: Formula) -> Formula:
    """Return a product; of one factor or none, this factor or 1."""
    if len(parts) < 2:
        return parts[0] if parts else number(1)
    return Formula("*", parts)


def over(top: Formula, bottom: Formula) -> Formula:
    return Formula("/", (top, bottom))


def power(base: Formula, exponent: Formula | int) -> Formula:
    return Formula("^", (base, number(exponent) if isinstance(exponent, int) else exponent))


def root(inside: Formula, degree: int = 2) -> Formula:
    return Formula("root", (inside, number(degree)))


def apply(function: str, argument: Formula) -> Formula:
    return Formula(function, (argument,))


def binomial(top: int, bottom: int) -> Formula:
    return Formula("binomial", (number(top), number(bottom)))


def names(formula: Formula) -> set[str]:
    found = {formula.name} if formula.operator == "name" else set()
    for part in formula.parts:
        found |= names(part)
    return found


def value(formula: Formula, point: dict[str, Fraction]) -> mpmath.mpc:
    """Return the value where the names have the values of a point."""
    with mpmath.workdps(DIGITS):
        return _value(formula, point)


def _value(formula: Formula, point: dict[str, Fraction]) -> mpmath.mpc:
    if formula.operator in ("number", "name"):
        exact = formula.number if formula.operator == "number" else point[formula.name]
        return mpmath.mpf(exact.numerator) / exact.denominator
    if formula.operator in ("pi", "e", "i"):
        return {"pi": mpmath.pi(), "e": mpmath.e(), "i": mpmath.mpc(0, 1)}[formula.operator]
    parts = []
    for part in formula.parts:
        parts.append(_value(part, point))
    if formula.operator == "+":
        return mpmath.fsum(parts)
    if formula.operator == "*":
        return mpmath.fprod(parts)
    if formula.operator in FUNCTIONS:
        return FUNCTIONS[formula.operator](parts[0])
    first, second = parts
    if formula.operator == "^" and first.real < 0 and not mpmath.isint(second):
        raise ValueError("(-8)^(1/3) is -2 or complex")
    two = {
        "/": lambda: first / second,
        "^": lambda: first**second,
        "root": lambda: mpmath.root(first, int(second.real)),
        "binomial": lambda: mpmath.binomial(first, second),
    }
    return two[formula.operator]()


def differ(a: Formula, b: Formula, draw: random.Random) -> bool:
    """Return whether the values surely differ: at one of three points by a part in 10^6 or more."""
    return _gap(a, b, draw) > mpmath.mpf(10) ** -6


def agree(a: Formula, b: Formula, draw: random.Random) -> bool:
    """Return whether the values agree at three points, to 40 digits."""
    return _gap(a, b, draw) < CLOSE


def _gap(a: Formula, b: Formula, draw: random.Random) -> mpmath.mpf:
    largest = mpmath.mpf(0)
    for _ in range(3):
        point = {}
        for letter in sorted(names(a) | names(b)):
            point[letter] = Fraction(draw.randint(10**6, 9 * 10**6), 10**6 + 3)
        try:
            ours, theirs = value(a, point), value(b, point)
        except (ZeroDivisionError, ValueError, OverflowError):
            continue
        largest = max(largest, abs(ours - theirs) / (abs(ours) + abs(theirs) + mpmath.mpf(10) ** -30))
    return largest


def rewritten(formula: Formula, draw: random.Random, depth: int = 0) -> Formula:
    """Return another form of the same value: other order, expanded or factored, other roots and quotients."""
    parts = []
    for part in formula.parts:
        parts.append(rewritten(part, draw, depth + 1))
    if formula.operator in ("+", "*"):
        draw.shuffle(parts)
    if formula.operator in ("^", "root", "binomial"):
        parts[1] = formula.parts[1]
    same = replace(formula, parts=tuple(parts))
    if draw.random() < 0.5 or depth > 3:
        return same
    rule = _RULES.get(formula.operator)
    return rule(same, draw) if rule else same


def _other_sum(formula: Formula, draw: random.Random) -> Formula:
    """a + b = -(-a - b)."""
    if draw.random() < 0.8:
        return formula
    parts = []
    for part in formula.parts:
        parts.append(negative(part))
    return times(number(-1), add(*parts))


def negative(formula: Formula) -> Formula:
    if formula.operator == "number":
        return number(-formula.number)
    if formula.operator == "*" and formula.parts[0].operator == "number":
        factor = number(-formula.parts[0].number)
        return times(factor, *formula.parts[1:]) if factor.number != 1 else times(*formula.parts[1:])
    return times(number(-1), formula)


def _other_product(formula: Formula, draw: random.Random) -> Formula:
    """a (b + c) = a b + a c."""
    sums = [i for i, part in enumerate(formula.parts) if part.operator == "+"]
    if not sums or len(formula.parts) < 2:
        return formula
    place = draw.choice(sums)
    others = formula.parts[:place] + formula.parts[place + 1 :]
    terms = []
    for term in formula.parts[place].parts:
        terms.append(times(*others, term))
    return add(*terms)


def _other_quotient(formula: Formula, draw: random.Random) -> Formula:
    top, bottom = formula.parts
    k = draw.randint(2, 5)
    if bottom.operator == "root" and bottom.parts[1].number == 2 and bottom.parts[0].operator == "number":
        return over(times(top, bottom), bottom.parts[0])
    forms = [times(top, over(number(1), bottom)), times(top, power(bottom, -1))]
    forms.append(over(times(number(k), top), times(number(k), bottom)))
    if top.operator == "+":
        terms = []
        for term in top.parts:
            terms.append(over(term, bottom))
        forms.append(add(*terms))
    return draw.choice(forms)


def _other_power(formula: Formula, draw: random.Random) -> Formula:
    base, exponent = formula.parts
    n = exponent.number
    if exponent.operator != "number" or n.denominator != 1:
        return formula
    if n < 0:
        return over(number(1), power(base, int(-n)) if n < -1 else base)
    if n in (2, 3) and base.operator != "number":
        return times(*[base] * int(n))
    return over(number(1), power(base, int(-n))) if n > 1 and draw.random() < 0.2 else formula


def _other_root(formula: Formula, draw: random.Random) -> Formula:
    inside, degree = formula.parts
    n = int(degree.number)
    if inside.operator != "number" or inside.number.denominator != 1 or inside.number < 2:
        return power(inside, number(1, n)) if draw.random() < 0.4 else formula
    if draw.random() < 0.3:
        return power(inside, number(1, n))
    for k in range(9, 1, -1):
        if inside.number % k**n == 0:
            return times(number(k), root(number(inside.number / k**n), n))
    return over(root(number(inside.number * 3**n), n), number(3))


def _other_function(formula: Formula, draw: random.Random) -> Formula:
    inside = formula.parts[0]
    if formula.operator == "tan":
        return over(apply("sin", inside), apply("cos", inside))
    if formula.operator == "exp":
        return power(E, inside)
    if formula.operator == "sin" and draw.random() < 0.3:
        return apply("cos", add(over(PI, number(2)), negative(inside)))
    if formula.operator == "ln" and inside.operator == "number" and inside.number.denominator == 1:
        for k in (2, 3, 5, 7):
            if inside.number % k == 0 and inside.number > k:
                return add(apply("ln", number(k)), apply("ln", number(inside.number / k)))
    return formula


_RULES = {
    **{"+": _other_sum, "*": _other_product, "/": _other_quotient, "^": _other_power, "root": _other_root},
    **{"sin": _other_function, "tan": _other_function, "exp": _other_function, "ln": _other_function},
}


def changed(formula: Formula, draw: random.Random) -> Formula:
    """Return a formula with one number, sign, name or function changed, whose value surely differs."""
    for _ in range(100):
        other = _changed_once(formula, draw)
        if other != formula and differ(formula, other, draw):
            return other
    raise ValueError(f"no change of {formula} changes its value")


def _changed_once(formula: Formula, draw: random.Random) -> Formula:
    if formula.parts and draw.random() < 0.8:
        place = draw.randrange(len(formula.parts))
        old = formula.parts[place]
        is_degree = formula.operator == "root" and place == 1
        part = number(5 - old.number) if is_degree else _changed_once(old, draw)
        return replace(formula, parts=(*formula.parts[:place], part, *formula.parts[place + 1 :]))
    if formula.operator == "number":
        return number(changed_number(formula.number, draw))
    if formula.operator == "name":
        return name(draw.choice(VARIABLES))
    if formula.operator == "+":
        place = draw.randrange(len(formula.parts))
        part = negative(formula.parts[place])
        return add(*formula.parts[:place], part, *formula.parts[place + 1 :])
    if formula.operator in OTHER_FUNCTION:
        return replace(formula, operator=OTHER_FUNCTION[formula.operator])
    return {"pi": E, "e": PI, "i": name("j")}.get(formula.operator, formula)


def changed_number(old: Fraction, draw: random.Random) -> Fraction:
    """Change one digit of a number, its sign, or turn its fraction over."""
    if draw.random() < 0.15 and old:
        return -old
    if draw.random() < 0.1 and old:
        return 1 / old
    top = list(str(old.numerator))
    places = [i for i, c in enumerate(top) if c.isdigit()]
    place = draw.choice(places)
    top[place] = str((int(top[place]) + draw.randint(1, 9)) % 10)
    return Fraction(int("".join(top)), old.denominator)
