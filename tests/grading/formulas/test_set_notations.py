"""Random sets in random notations: the same set is equal, a set that differs in one end, bracket or point is not."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction

import pytest

from rethink.grading.formulas.judge import judge

INFINITE = Fraction(10**9)
N_SETS = 80


@dataclass(frozen=True)
class Part:
    """An interval, or a point if low is high."""

    low: Fraction
    high: Fraction
    left: bool
    right: bool


def random_set(rng: random.Random) -> list[Part]:
    """Return parts in order, with gaps between them; sometimes only a point is missing between two."""
    ends = sorted(rng.sample(range(-40, 40), 2 * rng.randint(1, 3)))
    scale = rng.choice([1, 1, 2, 3, 10])
    parts: list[Part] = []
    for low, high in zip(ends[::2], ends[1::2], strict=True):
        left, right = rng.random() < 0.5, rng.random() < 0.5
        parts.append(Part(Fraction(low, scale), Fraction(high, scale), left, right))
        if rng.random() < 0.2:
            parts[-1] = Part(parts[-1].low, parts[-1].low, True, True)
    if len(parts) > 1 and rng.random() < 0.3 and parts[0].low < parts[0].high and parts[1].low < parts[1].high:
        parts[:2] = [
            Part(parts[0].low, parts[0].high, parts[0].left, False),
            Part(parts[0].high, parts[1].high, False, parts[1].right),
        ]
    if parts[0].low < parts[0].high and rng.random() < 0.3:
        parts[0] = Part(-INFINITE, parts[0].high, False, parts[0].right)
    if parts[-1].low < parts[-1].high and rng.random() < 0.3:
        parts[-1] = Part(parts[-1].low, INFINITE, parts[-1].left, False)
    return parts


def changed(parts: list[Part], rng: random.Random) -> list[Part]:
    """Return a set that differs in one thing."""
    found = [*parts]
    at = rng.randrange(len(parts))
    part = found[at]
    ways = ["end", "drop"] if part.low == part.high else ["end", "left", "right", "puncture"]
    way = rng.choice(ways)
    if part.high - part.low == 2 * INFINITE:
        way = "puncture"
    if way == "left" and part.low > -INFINITE:
        found[at] = Part(part.low, part.high, not part.left, part.right)
    elif way == "right" and part.high < INFINITE:
        found[at] = Part(part.low, part.high, part.left, not part.right)
    elif way == "drop" and len(parts) > 1:
        del found[at]
    elif way == "puncture":
        middle = (max(part.low, Fraction(-99)) + min(part.high, Fraction(99))) / 2
        found[at : at + 1] = [Part(part.low, middle, part.left, False), Part(middle, part.high, False, part.right)]
    elif part.low == part.high:
        moved = part.low + Fraction(1, 7)
        found[at] = Part(moved, moved, True, True)
    elif part.high < INFINITE:
        found[at] = Part(part.low, part.high + Fraction(1, 7), part.left, part.right)
    else:
        found[at] = Part(part.low - Fraction(1, 7), part.high, part.left, part.right)
    return found


def number(value: Fraction, rng: random.Random) -> str:
    if abs(value) == INFINITE:
        return "-\\infty" if value < 0 else rng.choice(["\\infty", "+\\infty"])
    size, sign = abs(value), "-" * (value < 0)
    if size.denominator == 1:
        return f"{sign}{size}"
    ways = [f"\\frac{{{size.numerator}}}{{{size.denominator}}}", f"\\dfrac{{{size.numerator}}}{{{size.denominator}}}"]
    if size.denominator in (2, 5, 10):
        ways.append(str(float(size)))
    return sign + rng.choice(ways)


def as_intervals(parts: list[Part], rng: random.Random) -> str:
    texts: list[str] = []
    french = rng.random() < 0.1
    for part in parts:
        low, high = number(part.low, rng), number(part.high, rng)
        left = "[" if part.left else "]" if french else "("
        right = "]" if part.right else "[" if french else ")"
        size = rng.choice([("", ""), ("\\left", "\\right")]) if not french else ("", "")
        texts.append(f"\\{{{low}\\}}" if part.low == part.high else f"{size[0]}{left}{low}, {high}{size[1]}{right}")
    rng.shuffle(texts)
    return rng.choice(["", "x \\in ", "D = "]) + rng.choice([" \\cup ", "\\cup", " ∪ "]).join(texts)


def relation(part: Part, name: str, rng: random.Random) -> str:
    """Return the part as a relation: a chain, two relations or one."""
    low, high = number(part.low, rng), number(part.high, rng)
    if part.low == part.high:
        return f"{name} = {low}"
    less, more = rng.choice(["\\le ", "\\leq ", "\\leqslant ", "≤"]), rng.choice(["\\ge ", "\\geq ", "≥"])
    first, second = less if part.left else "<", less if part.right else "<"
    down, up = more if part.right else ">", more if part.left else ">"
    if part.low == -INFINITE:
        return rng.choice([f"{name} {second} {high}", f"{high} {down} {name}"])
    if part.high == INFINITE:
        return rng.choice([f"{name} {up} {low}", f"{low} {first} {name}"])
    return rng.choice([f"{low} {first} {name} {second} {high}", f"{high} {down} {name} {up} {low}"])


def as_relations(parts: list[Part], rng: random.Random, name: str) -> str:
    texts = [relation(part, name, rng) for part in parts]
    rng.shuffle(texts)
    return rng.choice([" \\text{ or } ", " \\lor ", " or ", " \\quad\\text{or}\\quad "]).join(texts)


def as_builder(parts: list[Part], rng: random.Random) -> str:
    name = rng.choice("xtk")
    bound = rng.choice([name, f"{name} \\in \\mathbb{{R}}", f"{name} ∈ ℝ"])
    return f"\\{{{bound} {rng.choice([':', chr(92) + 'mid', '|'])} {as_relations(parts, rng, name)}\\}}"


def as_complement(parts: list[Part], rng: random.Random) -> str:
    """Return R without what lies between the parts."""
    gaps: list[Part] = []
    low, left = -INFINITE, False
    for part in parts:
        if part.low > low or (part.low == low and left and not part.left):
            gaps.append(Part(low, part.low, left, not part.left))
        low, left = part.high, not part.right
    if low < INFINITE:
        gaps.append(Part(low, INFINITE, left, False))
    if not gaps:
        return "\\mathbb{R}"
    minus = rng.choice(["\\setminus", "\\backslash"])
    without = as_intervals(gaps, rng).removeprefix("x \\in ").removeprefix("D = ")
    return f"\\mathbb{{R}} {minus} " + (f"({without})" if len(gaps) > 1 else without)


def written(parts: list[Part], rng: random.Random) -> str:
    way = rng.randrange(4)
    if way == 0:
        return as_intervals(parts, rng)
    if way == 1:
        return as_relations(parts, rng, "x")
    return as_builder(parts, rng) if way == 2 else as_complement(parts, rng)


@pytest.mark.parametrize("seed", range(4))
def test_random_sets(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(N_SETS // 4):
        parts = random_set(rng)
        gold, same, other = written(parts, rng), written(parts, rng), written(changed(parts, rng), rng)
        assert judge(same, gold)[0] is True, (same, gold, judge(same, gold))
        assert judge(other, gold)[0] is False, (other, gold, judge(other, gold))
