"""Sets that have a name: R, Z^+, "all real numbers", "no solution"; and whole numbers of intervals."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from rethink.grading.formulas.intervals import (
    ALL,
    EMPTY,
    MAX_PARTS,
    Cut,
    Interval,
    Reals,
    above,
    below,
    number,
    point,
)
from rethink.grading.formulas.tree import Constant, Name, Node, Number, Tree, Words
from rethink.grading.formulas.values import infinite

_ZERO = Number(Fraction(0))
_SIGNS = {
    "": ALL,
    "positive": above(_ZERO, closed=False),
    "negative": below(_ZERO, closed=False),
    "nonnegative": above(_ZERO, closed=True),
    "nonpositive": below(_ZERO, closed=True),
    "nonzero": Reals((below(_ZERO, closed=False).intervals[0], above(_ZERO, closed=False).intervals[0])),
}
_WORDS = re.compile(
    r"(?:the )?(?:set of )?(?:all |any |every |the )?(?:(positive|negative|nonnegative|nonpositive|nonzero) )?"
    r"(reals?|real numbers?|real values?|integers?|whole numbers|natural numbers|rational numbers|rationals)(?: [a-z])?"
)
_NONE = re.compile(
    r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?|real numbers?|values?)|(?:the )?empty set|none"
)
_LETTERS = re.compile(r"(?:\\mathbb\{([RZQN])\}|([RZQN]))(?:(?:\^|_)\{?([+*0-])\}?)")
_MARKS = {"+": "positive", "-": "negative", "*": "nonzero", "0": "nonnegative"}


def domain(tree: Tree, zero_is_natural: bool = False) -> Reals | None:
    """Return a set that is called by its name; None if a tree is something else."""
    if isinstance(tree, Constant) and tree.name in ("R", "Z", "Q", "N", "C"):
        return _of_letter(tree.name, "", zero_is_natural)
    if isinstance(tree, Name):
        found = _LETTERS.fullmatch(tree.name)
        return _of_letter(found[1] or found[2], _MARKS[found[3]], zero_is_natural) if found else None
    if not isinstance(tree, Words):
        return None
    text = " ".join(re.sub(r"[^a-z ]", "", tree.text.lower().replace("non-", "non")).split())
    if _NONE.fullmatch(text):
        return EMPTY
    said = _WORDS.fullmatch(text)
    if said is None or (said[2] in ("natural numbers", "whole numbers") and said[1]):
        return None
    letter = {"i": "Z", "w": "Z", "n": "N"}.get(said[2][0], "Q" if said[2].startswith("rat") else "R")
    return _of_letter(letter, said[1] or "", zero_is_natural)


def as_domain(tree: Tree) -> Tree:
    """Return the R of x \\in R as the set of real numbers."""
    return Constant(tree.name) if isinstance(tree, Name) and tree.name in ("R", "Z", "Q", "N") else tree


def _of_letter(letter: str, sign: str, zero_is_natural: bool) -> Reals:
    if letter == "N":
        is_positive = sign in ("positive", "nonzero") or (not sign and not zero_is_natural)
        return Reals(above(Number(Fraction(1 if is_positive else 0)), closed=True).intervals, "Z")
    return Reals(_SIGNS[sign].intervals, letter)


def whole_numbers(s: Reals) -> Reals:
    """Return the whole numbers of a set: as points if they are few, otherwise as intervals with whole end points."""
    points: list[Interval] = []
    others: list[Interval] = []
    for low, high in s.intervals:
        first = low if infinite(low.value) else _at(_first_whole(low.value, low.behind), behind=False)
        last = high if infinite(high.value) else _at(-_first_whole(_minus(high.value), not high.behind), behind=True)
        if isinstance(first.value, Number) and isinstance(last.value, Number):
            start, n = int(first.value.value), int(last.value.value - first.value.value) + 1
            if n <= MAX_PARTS:
                points += [point(Number(Fraction(start + i))).intervals[0] for i in range(n)]
                continue
        others.append((first, last))
    return Reals((*points, *others), "Z" if others else "R")


def _at(n: int, behind: bool) -> Cut:
    return Cut(Number(Fraction(n)), behind)


def _first_whole(value: Tree, behind: bool) -> int:
    """Return the first whole number from an end point on."""
    size = number(value)
    whole = math.ceil(size) if isinstance(size, Fraction) else int(size) + (size > 0)
    return whole + 1 if behind and size == whole else whole


def _minus(tree: Tree) -> Tree:
    return Number(-tree.value) if isinstance(tree, Number) else Node("-", (tree,))
