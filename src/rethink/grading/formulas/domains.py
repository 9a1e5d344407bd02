"""Sets in words or with a name: R, Z^+, "all real numbers except 3", "no solution"; and whole numbers of intervals."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.agree import agree
from rethink.grading.formulas.inequalities import ORDERS
from rethink.grading.formulas.intervals import (
    ALL,
    EMPTY,
    MAX_PARTS,
    Cut,
    Interval,
    Reals,
    above,
    below,
    nearest_whole,
    number,
    point,
)
from rethink.grading.formulas.structure import infinite
from rethink.grading.formulas.tree import LISTS, Constant, Name, Node, Number, Tree, Words

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
    r"(reals?|real numbers?|real values?|integers?|natural numbers|rational numbers|rationals)(?: [a-z])?"
)
_NONE = re.compile(
    r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?|real numbers?|values?)(?: exists?)?|(?:the )?empty set|none"
)
_ANY = re.compile(r"(?:for )?(?:all|any|every)(?: reals?| real numbers?| real values of| values of| numbers)?")
_LIMIT = re.compile(
    r"(.+?) (?:that are |which are )?(greater than|less than|at least|at most|not equal to)( or equal to)?"
)
_LIMITS = {"greater than": ">", "less than": "<", "at least": ">=", "at most": "<=", "not equal to": "!="}
_PARITY = re.compile(r"(?:the )?(?:set of )?(?:all )?(?:the )?(even|odd) (?:integers|numbers|whole numbers)(?: [a-z])?")
_LETTERS = re.compile(r"\\mathbb\{([RZQN])\}(?:\^|_(?!\+))(.{1,4})")
_MARKS = {"+": "positive", "-": "negative", "*": "nonzero", "0": "nonnegative", ">0": "positive", "<0": "negative"}
_MARKS.update({sign + "0": "nonnegative" for sign in (">=", "ge", "geq", "geqslant")})
_MARKS.update({sign + "0": "nonpositive" for sign in ("<=", "le", "leq", "leqslant")})
_MARKS.update({"ne0": "nonzero", "neq0": "nonzero", "++": "positive", "times": "nonzero"})


def domain(tree: Tree, zero_is_natural: bool = False) -> Reals | None:
    """Return a set that is called by its name; None if a tree is something else."""
    if isinstance(tree, Constant) and tree.name in ("R", "Z", "Q", "N", "C"):
        return _of_letter(tree.name, "", zero_is_natural)
    if isinstance(tree, Name):
        found = _LETTERS.fullmatch(tree.name)
        if found and found[2] in _MARKS and not (found[2] == "0" and found[1] != "N"):
            return _of_letter(found[1], _MARKS[found[2]], zero_is_natural)
        if "\\mathbb" in tree.name:
            return None
    text = _text(tree)
    if _NONE.fullmatch(text):
        return EMPTY
    said = _WORDS.fullmatch(text)
    if said is None or (said[2] == "natural numbers" and said[1]):
        return None
    letter = {"i": "Z", "n": "N"}.get(said[2][0], "Q" if said[2].startswith("rat") else "R")
    return _of_letter(letter, said[1] or "", zero_is_natural)


def _text(tree: Tree) -> str:
    """Return the letters of words, without case; "" if a tree is a formula."""
    written = tree.text if isinstance(tree, Words) else tree.name if isinstance(tree, Name) else ""
    if len(written) < 3 or "\\" in written.replace("\\text", ""):
        return ""
    return " ".join(re.sub(r"[^a-z ]", "", written.replace("\\text", "").lower().replace("non-", "non")).split())


def _quantifier(tree: Tree) -> Tree | None:
    """Return the R of "all" or "all real numbers" before the name of a variable; None for anything else."""
    if _ANY.fullmatch(_text(tree)):
        return Constant("R")
    words = Words(_text(tree))
    return words if domain(words) is not None and words.text not in ("none", "") else None


def _limit(tree: Tree) -> tuple[Tree, str] | None:
    """Return the R and the > of "all real numbers greater than"; None for anything else."""
    found = _LIMIT.fullmatch(_text(tree))
    among = domain(Words(found[1])) if found else None
    if found is None or among is None or among == EMPTY:
        return None
    relation = _LIMITS[found[2]]
    return Words(found[1]), relation + "=" if found[3] and len(relation) == 1 else relation


def _excepted(tree: Tree) -> Tree | None:
    """Return the R of "all real numbers except"; None for anything else."""
    found = re.fullmatch(r"(.+) (?:except|except for|other than|excluding|but|without)", _text(tree))
    return Words(found[1]) if found and domain(Words(found[1])) is not None else None


def parity(tree: Tree) -> int | None:
    """Return 0 for "even integers", 1 for "odd integers", None for anything else."""
    found = _PARITY.fullmatch(_text(tree))
    return int(found[1] == "odd") if found else None


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
    size, nearest = number(value), nearest_whole(value)
    if agree(value, Number(Fraction(nearest))):
        return nearest + behind
    return nearest if nearest > size else nearest + 1


def _minus(tree: Tree) -> Tree:
    return Number(-tree.value) if isinstance(tree, Number) else Node("-", (tree,))


_RELATIONS = (*ORDERS, "in", "notin", "chain")


def without_words(tree: Tree) -> Tree:
    """Return the set as a formula; other trees as they are."""
    if not isinstance(tree, Node):
        return tree
    if tree.operator == "*":
        return _alone(tree)
    if tree.operator not in (*_RELATIONS, *LISTS):
        return tree
    first, *others = tree.operands
    if not isinstance(first, Node):
        return tree
    if tree.operator in LISTS and first.operator in _RELATIONS:
        begun = without_words(first)
        if isinstance(begun, Node) and begun.operator == "setminus":
            return Node("setminus", (*begun.operands, *map(_right_side, others)))
        return Node(tree.operator, (begun, *others))
    return _in_front(tree, first, others)


def _alone(tree: Node) -> Tree:
    """Read "all real numbers except 3", "all real numbers greater than 2" and "all real x"."""
    said, rest = tree.operands[0], tree.operands[1]
    if len(tree.operands) > 2:
        return tree
    among = _excepted(said)
    if among is not None:
        return Node("setminus", (among, rest))
    limited = _limit(said)
    if limited is not None:
        bound = Name("")
        return Node("such that", (Node("in", (bound, limited[0])), Node(limited[1], (bound, rest))))
    among = _quantifier(said)
    return among if among is not None and isinstance(rest, Name) else tree


def _in_front(tree: Node, first: Node, others: list[Tree]) -> Tree:
    """Read words in front of a relation or list: "all x > 3", "all real numbers except 1 and 2"."""
    if first.operator != "*" or len(first.operands) != 2:
        return tree
    said, name = first.operands
    among = _excepted(said)
    if among is not None:
        without = others if tree.operator == "=" else [name, *map(_right_side, others)]
        return Node("setminus", (among, *without))
    among = _quantifier(said)
    if among is None or not isinstance(name, Name):
        return tree
    if tree.operator in _RELATIONS:
        others = [Node(tree.operator, (name, *others))]
    return Node(",", (Node("in", (name, among)), *others))


def _right_side(tree: Tree) -> Tree:
    """Return the 3 of x = 3."""
    return tree.operands[1] if isinstance(tree, Node) and tree.operator == "=" else tree
