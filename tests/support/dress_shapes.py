"""Pairs of answers that are more than one value: lists, sets, points, intervals, matrices, equations, plus-minus, cases.

Each function returns two texts: the second is a gold answer, the first equals it in other dress, or surely does not.
"""

from __future__ import annotations

import random
from fractions import Fraction

from support.dress_formulas import (
    Formula,
    add,
    agree,
    changed,
    changed_number,
    differ,
    name,
    names,
    negative,
    number,
    power,
    rewritten,
    root,
    times,
    value,
)
from support.dress_spelling import Pen

Two = tuple[str, str]


def some_number(draw: random.Random) -> Formula:
    top = draw.randint(1, 40) * draw.choice([1, 1, -1])
    return number(top, draw.choice([1, 1, 1, 2, 3, 4, 5, 7, 10]))


def some_item(draw: random.Random) -> Formula:
    if draw.random() < 0.75:
        return some_number(draw)
    surd = root(number(draw.choice([2, 3, 5, 7, 8, 12, 18])))
    return draw.choice([surd, add(number(draw.randint(1, 9)), surd), times(number(draw.randint(2, 9)), surd)])


def items(draw: random.Random, n: int) -> list[Formula]:
    """Return formulas of n different values."""
    found: list[Formula] = []
    while len(found) < n:
        item = some_item(draw)
        if all(differ(item, other, draw) for other in found):
            found.append(item)
    return found


def other_items(old: list[Formula], draw: random.Random) -> list[Formula]:
    """Change one item, leave one out, or add one; none of them equals an item that was there."""
    kind = draw.choice(["change", "change", "change", "drop", "more"])
    place = draw.randrange(len(old))
    if kind == "drop" and len(old) > 2:
        return old[:place] + old[place + 1 :]
    while True:
        new = changed(old[place], draw)
        if all(differ(new, item, draw) for item in old):
            break
    return [*old, new] if kind == "more" else [*old[:place], new, *old[place + 1 :]]


def written(found: list[Formula], draw: random.Random, *, rewrite: bool = True) -> list[str]:
    pen = Pen(draw, in_list=True)
    texts = []
    for item in found:
        texts.append(pen.write(rewritten(item, draw) if rewrite else item))
    return texts


def comma(draw: random.Random) -> str:
    return draw.choice([", ", ",", ", ", r",\ ", r",\,", r",\quad ", " , "])


def lists(draw: random.Random, equal: bool) -> Two:
    ours = items(draw, draw.randint(2, 4))
    theirs = list(ours) if equal else other_items(ours, draw)
    draw.shuffle(theirs)
    texts = []
    for found in (theirs, ours):
        parts = written(found, draw)
        joint = comma(draw)
        last = draw.choice([joint, joint, r" \text{ and } ", " and ", r", \text{ and } ", r" \text{ or } ", " or "])
        if "/" in parts[-1]:  # "7 and 2/3" is a mixed number
            last = joint
        text = joint.join(parts[:-1]) + last + parts[-1]
        form = draw.random()
        if form < 0.15:
            text = "x = " + text
        elif form < 0.25:
            text = draw.choice([" or ", ", ", r" \text{ or } ", r" \lor "]).join(f"x = {part}" for part in parts)
        elif form < 0.35:
            text = r"\{" + joint.join(parts) + r"\}"
        elif form < 0.4:
            text = ", ".join(f"x_{i + 1} = {part}" for i, part in enumerate(parts)) if found is theirs else text
        texts.append(text)
    return texts[0], texts[1]


def sets(draw: random.Random, equal: bool) -> Two:
    ours = items(draw, draw.randint(2, 5))
    theirs = list(ours) if equal else other_items(ours, draw)
    draw.shuffle(theirs)
    texts = []
    named = draw.choice([theirs, ours])
    for found in (theirs, ours):
        parts = written(found, draw)
        if draw.random() < 0.15:
            parts.append(parts[0])
        left, right = draw.choice(
            [(r"\{", r"\}"), (r"\left\{", r"\right\}"), (r"\{ ", r" \}"), (r"\lbrace ", r"\rbrace ")]
        )
        text = left + comma(draw).join(parts) + right
        if found is named and draw.random() < 0.3:
            text = draw.choice(["S = ", r"x \in ", "A="]) + text
        if draw.random() < 0.1 and len(parts) > 2:
            text = rf"\{{{parts[0]}\}} \cup \{{{', '.join(parts[1:])}\}}"
        texts.append(text)
    return texts[0], texts[1]


def points(draw: random.Random, equal: bool) -> Two:
    n = draw.choice([2, 2, 3])
    ours = items(draw, n)
    theirs = list(ours)
    if not equal:
        while theirs == ours:
            theirs = [*ours[1:], ours[0]] if draw.random() < 0.3 else other_items(ours, draw)
    texts = []
    named = draw.choice([theirs, ours])
    for found in (theirs, ours):
        parts = written(found, draw)
        left, right = draw.choice(
            [("(", ")"), ("(", ")"), (r"\left(", r"\right)"), (r"\bigl(", r"\bigr)"), ("( ", " )")]
        )
        text = left + comma(draw).join(parts) + right
        form = draw.random()
        front = "(x, y)" if len(found) == 2 else "(x, y, z)"
        if found is not named:
            form = max(form, 0.2)
        if form < 0.12 and len(found) < 4:
            text = f"{front} = {text}"
        elif form < 0.2:
            text = draw.choice(["P", "P = ", "A", r"\mathbf{v} = "]) + text
        elif form < 0.3 and found is theirs and len(found) == len(ours):
            text = ", ".join(f"{letter} = {part}" for letter, part in zip("xyz", parts, strict=False))
        elif form < 0.35 and found is theirs and len(found) == len(ours):
            rows = r" \\ ".join(f"{letter} = {part}" for letter, part in zip("xyz", parts, strict=False))
            text = rf"\begin{{cases}} {rows} \end{{cases}}"
        texts.append(text)
    return texts[0], texts[1]


Interval = tuple[str, Formula | None, Formula | None, str]
"""Left bracket, bounds (None is infinite), right bracket."""


def some_intervals(draw: random.Random, n: int) -> list[Interval]:
    """Return n intervals, from left to right, that do not touch."""
    found: list[Interval] = []
    at = draw.randint(-20, 0)
    for i in range(n):
        low = number(at * 6 + draw.randint(1, 5), draw.choice([6, 6, 3, 2, 1, 1]) if n == 1 else 6)
        at += draw.randint(2, 6)
        high = number(at * 6 + draw.randint(1, 5), 6)
        at += draw.randint(2, 6)
        if low.number >= high.number:
            low = number(high.number - 3)
        left, right = draw.choice("(["), draw.choice(")]")
        if i == 0 and draw.random() < 0.25:
            found.append(("(", None, high, right))
        elif i == n - 1 and draw.random() < 0.25:
            found.append((left, low, None, ")"))
        else:
            found.append((left, low, high, right))
    return found


def other_intervals(old: list[Interval], draw: random.Random) -> list[Interval]:
    """Change one bracket or bound, or leave an interval out."""
    if len(old) > 1 and draw.random() < 0.15:
        return old[1:]
    place = draw.randrange(len(old))
    left, low, high, right = old[place]
    flip = {"(": "[", "[": "(", ")": "]", "]": ")"}
    choices: list[Interval] = []
    if low is not None:
        choices += [(flip[left], low, high, right), (left, number(low.number - Fraction(1, 7)), high, right)]
    if high is not None:
        choices += [(left, low, high, flip[right]), (left, low, number(high.number + Fraction(1, 7)), right)]
    if low is None and high is not None:
        choices.append(("(", high, None, ")"))
    return [*old[:place], draw.choice(choices), *old[place + 1 :]]


def intervals(draw: random.Random, equal: bool) -> Two:
    ours = some_intervals(draw, draw.choice([1, 1, 1, 2, 2, 3]))
    theirs = ours if equal else other_intervals(ours, draw)
    return interval_text(theirs, draw), interval_text(ours, draw)


def interval_text(found: list[Interval], draw: random.Random) -> str:
    form = draw.choice(["brackets", "brackets", "relations", "builder", "outward"])
    pen = Pen(draw, in_list=True)
    texts = []
    for interval in found:
        texts.append(_relations(interval, pen) if form in ("relations", "builder") else _brackets(interval, pen, form))
    if form == "brackets":
        text = draw.choice([r" \cup ", r"\cup", " ∪ ", r" \bigcup "]).join(texts)
        return draw.choice(["", "", "", r"x \in ", "x ∈ "]) + text
    if form == "outward":
        return r" \cup ".join(texts)
    text = draw.choice([r" \text{ or } ", " or ", r"\text{ or }", r" \lor "]).join(texts)
    if form == "builder":
        mark, home = draw.choice([":", r"\mid ", "|"]), draw.choice(["", "", r" \in \mathbb{R}"])
        return rf"\{{x{home} {mark} {text}\}}"
    return text


def _bound(bound: Formula | None, sign: str, pen: Pen) -> str:
    if bound is not None:
        return pen.write(bound)
    infinity = r"\infty" if pen.latex else "∞"
    return sign + infinity


def _brackets(interval: Interval, pen: Pen, form: str) -> str:
    left, low, high, right = interval
    texts = _bound(low, "-", pen), _bound(high, pen.draw.choice(["", "", "+"]), pen)
    if form == "outward":
        left, right = {"(": "]", "[": "["}[left], {")": "[", "]": "]"}[right]
        return f"{left}{texts[0]},{texts[1]}{right}"
    if pen.latex and pen.draw.random() < 0.3:
        left, right = r"\left" + left, r"\right" + right
    return f"{left}{texts[0]}{pen.draw.choice([', ', ','])}{texts[1]}{right}"


def _relations(interval: Interval, pen: Pen) -> str:
    left, low, high, right = interval
    draw = pen.draw
    below = "<" if left == "(" else draw.choice([r"\le ", r"\leq ", "≤", r"\leqslant "] if pen.latex else ["≤", "<="])
    above = "<" if right == ")" else draw.choice([r"\le ", r"\leq ", "≤", r"\leqslant "] if pen.latex else ["≤", "<="])
    flipped = {"<": ">"}
    more = flipped.get(below) or draw.choice([r"\ge ", r"\geq ", "≥"] if pen.latex else ["≥", ">="])
    if low is None and high is not None:
        return f"x {above} {pen.write(high)}"
    if high is None and low is not None:
        return f"x {more} {pen.write(low)}" if draw.random() < 0.8 else f"{pen.write(low)} {below} x"
    assert low is not None
    assert high is not None
    return f"{pen.write(low)} {below} x {above} {pen.write(high)}"


def matrices(draw: random.Random, equal: bool) -> Two:
    rows, columns = draw.choice([(2, 2), (2, 1), (3, 1), (2, 3), (3, 3)])
    ours: list[Formula] = []
    for _ in range(rows * columns):
        ours.append(some_number(draw))
    theirs = list(ours)
    if not equal:
        place = draw.randrange(len(ours))
        theirs[place] = number(changed_number(ours[place].number, draw))
        while theirs[place].number == ours[place].number:
            theirs[place] = number(ours[place].number + 1)
    texts = []
    for found in (theirs, ours):
        parts = written(found, draw, rewrite=False)
        lines = []
        for i in range(rows):
            lines.append(draw.choice([" & ", "&"]).join(parts[i * columns : (i + 1) * columns]))
        kind = draw.choice(["pmatrix", "pmatrix", "bmatrix"])
        body = draw.choice([r" \\ ", r"\\", "\\\\\n"]).join(lines) + draw.choice(["", "", r" \\ "])
        texts.append(draw.choice(["", "", "A = "]) + rf"\begin{{{kind}}} {body} \end{{{kind}}}")
    return texts[0], texts[1]


def equations(draw: random.Random, equal: bool) -> Two:
    """y = p(x), a line, or a circle, in different arrangements and multiples."""
    x, y = name("x"), name("y")
    a, b, c = draw.randint(2, 9), draw.randint(1, 9), draw.randint(1, 9)
    left, right = draw.choice(
        [
            (y, add(times(number(a), x), number(b))),
            (add(times(number(a), x), times(number(b), y)), number(c)),
            (add(power(add(x, number(-a)), 2), power(add(y, number(b)), 2)), number(c * c)),
            (y, add(times(number(a), power(x, 2)), times(number(-b), x), number(c))),
            (add(times(number(1, a * a), power(x, 2)), times(number(1, b * b), power(y, 2))), number(1)),
        ]
    )
    other_left, other_right = left, right
    if not equal:
        while True:
            if draw.random() < 0.5:
                other_left, other_right = changed(left, draw) if left != y else left, right
            else:
                other_left, other_right = left, changed(right, draw)
            if not _proportional(add(left, negative(right)), add(other_left, negative(other_right)), draw):
                break
    texts = []
    for one, other in ((other_left, other_right), (left, right)):
        factor = draw.choice([1, 1, 1, 2, -1])
        first, second = one, other
        if draw.random() < 0.4:
            first, second = add(one, negative(other)), number(0)
        if factor != 1:
            first = times(number(factor), first)
            second = number(second.number * factor) if second.operator == "number" else times(number(factor), second)
        if draw.random() < 0.15:
            first, second = second, first
        pen = Pen(draw)
        sign = draw.choice([" = ", "=", " = ", "&=" if pen.latex else "="])
        texts.append(f"{pen.write(rewritten(first, draw))}{sign}{pen.write(rewritten(second, draw))}")
    return texts[0], texts[1]


def _proportional(a: Formula, b: Formula, draw: random.Random) -> bool:
    """Return whether one is a constant times the other; True also if that cannot be told."""
    point = {"x": Fraction(draw.randint(1, 10**6), 10**5 + 3), "y": Fraction(draw.randint(1, 10**6), 10**5 + 3)}
    if names(a) | names(b) > set(point):
        return False
    try:
        here, there = value(a, point), value(b, point)
    except (ZeroDivisionError, ValueError, OverflowError):
        return True
    return abs(there) < 1e-9 or agree(a, times(b, _constant(here / there)), draw)


def _constant(found: object) -> Formula:
    return number(Fraction(str(found.real)).limit_denominator(10**6))  # type: ignore[attr-defined]


def plus_minus(draw: random.Random, equal: bool) -> Two:
    a, surd, bottom = draw.randint(1, 9), draw.choice([2, 3, 5, 6, 7, 11]), draw.choice([1, 2, 3, 4])
    others = [(a + 1, surd, bottom), (a, surd + 2, bottom), (-a, surd, bottom), (a, surd, bottom + 1)]
    texts = []
    for p, q, r in (((a, surd, bottom) if equal else draw.choice(others)), (a, surd, bottom)):
        pm = draw.choice([r"\pm", r"\pm", "±", r"\pm "])
        under = rf"\sqrt{{{q}}}"
        listed = [rf"\frac{{{p}{sign}{under}}}{{{r}}}" for sign in draw.sample("+-", 2)]
        forms = [
            rf"\frac{{{p}{pm}{under}}}{{{r}}}",
            rf"\frac{{{p}}}{{{r}}} {pm} \frac{{{under}}}{{{r}}}",
            ", ".join(listed),
        ]
        forms.append(rf"x = \frac{{{p} {pm} {under}}}{{{r}}}")
        if r == 1:
            forms = [rf"{p}{pm}{under}", rf"{p} {pm} {under}", f"{p}+{under}, {p}-{under}", rf"x={p}{pm}\sqrt {{{q}}}"]
            forms.append(rf"{p}-{under} \text{{ or }} {p}+{under}")
        texts.append(draw.choice(forms))
    return texts[0], texts[1]


def piecewise(draw: random.Random, equal: bool) -> Two:
    a, b, at = draw.randint(2, 9), draw.randint(1, 9), draw.randint(-5, 5)
    ours = (f"{a}x", f"x^2+{b}", at, r"\geq")
    others = [
        (f"{a + 1}x", f"x^2+{b}", at, r"\geq"),
        (f"{a}x", f"x^2-{b}", at, r"\geq"),
        (f"{a}x", f"x^2+{b}", at + 1, r"\geq"),
    ]
    others.append((f"{a}x", f"x^2+{b}", at, r"\leq"))
    texts = []
    for first, second, where, sign in (ours if equal else draw.choice(others), ours):
        less = "<" if sign == r"\geq" else ">"
        spelled = draw.choice([sign, sign[:-1]])
        word = draw.choice(["", "", r"\text{if } ", r"\text{for } "])
        stop = draw.choice([",", "", ", "])
        rows = [f"{first}{stop} & {word}x {spelled} {where}", f"{second}{stop} & {word}x {less} {where}"]
        if draw.random() < 0.3:
            rows.reverse()
        front = draw.choice(["", "f(x) = ", "f(x)="])
        texts.append(front + r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}")
    return texts[0], texts[1]
