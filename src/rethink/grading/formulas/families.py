"""Sets of numbers that go through all integers: x = \\pi/4 + k\\pi with k \\in Z, \\{2k \\mid k \\in Z\\}, Z.

Such a set is a list of progressions without end, each with a start and a step. Two lists are the same set if they have the
same starts once all have one common step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from rethink.grading.formulas import domains
from rethink.grading.formulas.intervals import ALL, MAX_PARTS, Line, nearest_whole, number
from rethink.grading.formulas.set_reader import is_quantity, is_relation, normal
from rethink.grading.formulas.structure import free_names
from rethink.grading.formulas.tree import Constant, Name, Node, Number, Tree, minus, put, walk
from rethink.grading.formulas.verdicts import NotJudged

_USUAL_NAMES = frozenset("knmlj")
"""Names that stand for any integer if the other answer has such a family, even if it is not said."""
_LARGEST_RATIO = 1000
_ZERO, _ONE = Number(Fraction(0)), Number(Fraction(1))


@dataclass(frozen=True)
class Progression:
    """All numbers start + n * step with an integer n."""

    start: Tree
    step: Tree


def is_family(tree: Tree) -> bool:
    """Return whether a tree goes through all integers: of a name that occurs nowhere else, or because it is Z."""
    return bool(_integer_names(tree)) or _is_integers(tree) or domains.parity(tree) is not None


def equal_families(line: Line, a: Tree, b: Tree) -> bool | None:
    """Return whether two trees, at least one of which is a family, are the same set; None if one is no set of numbers."""
    ours, theirs = _read(line, a), _read(line, b)
    if ours is None or theirs is None:
        return None
    if not ours or not theirs:
        return False
    is_same = _same(line, ours, theirs)
    if is_same and not (_says_integer(a, b) and _says_integer(b, a)):
        raise NotJudged("a name that may stand for any integer")
    return is_same


def _says_integer(tree: Tree, other: Tree) -> bool:
    """Return whether a tree says that its name is any integer, or the other one says it of the same name."""
    return is_family(tree) or bool(free_names(tree) & _integer_names(other))


def _integer_names(tree: Tree) -> set[str]:
    """Return the names that are said to be any integer, and of which something else is made."""
    parts = _parts(tree)
    found: set[str] = set()
    others: set[str] = set()
    for part in parts:
        if _is_membership(part):
            found |= free_names(part)
        else:
            others |= free_names(part)
    return found & others if not _is_condition_only(parts, found) else set()


def _is_condition_only(parts: list[Tree], said: set[str]) -> bool:
    """Return whether the integer is the variable itself, as in n >= 2, n \\in Z."""
    relations = [part for part in parts if is_relation(part) and not _is_membership(part)]
    return any(isinstance(part, Node) and part.operator != "=" and free_names(part) <= said for part in relations)


def _is_membership(tree: Tree) -> bool:
    if not isinstance(tree, Node) or tree.operator != "in" or not isinstance(tree.operands[0], Name):
        return False
    return _is_integers(domains.as_domain(tree.operands[1]))


def _is_integers(tree: Tree) -> bool:
    named = domains.domain(tree)
    return named is not None and named.within == "Z" and named.intervals == ALL.intervals


def _parts(tree: Tree) -> list[Tree]:
    """Return the items, elements and conditions of a tree."""
    if not isinstance(tree, Node) or tree.operator not in (",", "and", "or", "{}", "cup", "such that"):
        return [tree]
    found: list[Tree] = []
    for part in tree.operands:
        found += _parts(part)
    return found


def _read(line: Line, tree: Tree) -> list[Progression] | None:
    """Return the progressions of a tree; [] for numbers without a family, None for what is neither."""
    tree = normal(tree)
    if _is_integers(tree):
        return [Progression(_ZERO, _ONE)]
    if domains.parity(tree) is not None:
        return [Progression(Number(Fraction(domains.parity(tree) or 0)), Number(Fraction(2)))]
    integers = _integer_names(tree)
    found: list[Progression] = []
    n_others = 0
    for part in _parts(tree):
        if _is_membership(part) and free_names(part) <= integers:
            continue
        term = _term(part)
        if term is None:
            return None
        names = free_names(term)
        if not integers and len(names) == 1:
            names = names & _USUAL_NAMES
        if len(names) > 1 or free_names(term) - names or (integers and names - integers):
            return None
        if names:
            found.append(_progression(line, term, names.pop()))
        else:
            n_others += 1
    if found and n_others:
        raise NotJudged("a family of numbers and some more")
    return found


def _term(tree: Tree) -> Tree | None:
    """Return what a family is made of: the right side of x = k\\pi, or an expression."""
    if isinstance(tree, Node) and tree.operator == "=" and is_quantity(tree.operands[0]):
        tree = tree.operands[1]
    for part in walk(tree):
        if is_relation(part) or (isinstance(part, Constant) and part.name != "pi"):
            return None
        if isinstance(part, Node) and part.operator in (",", "()", "[]", "(]", "[)", "{}", "cup", "matrix", "cases"):
            return None
    return tree


def _progression(line: Line, term: Tree, name: str) -> Progression:
    """Return the progression of a term that is linear in its integer."""
    start = put(term, Name(name), _ZERO)
    step = minus(put(term, Name(name), _ONE), start)
    if not line.equal(term, Node("+", (start, Node("*", (Name(name), step))))):
        raise NotJudged("a family of numbers that is no progression")
    if line.equal(step, _ZERO):
        raise NotJudged("a family of numbers without a step")
    return Progression(start, step)


def _same(line: Line, a: list[Progression], b: list[Progression]) -> bool:
    unit = a[0].step
    ratios: list[Fraction] = []
    for progression in (*a, *b):
        ratio = _ratio(line, progression.step, unit)
        if ratio is None:
            if len(a) == len(b) == 1:
                return False
            raise NotJudged("families of numbers whose steps do not fit")
        ratios.append(ratio)
    common = Fraction(math.lcm(*(r.numerator for r in ratios)), math.gcd(*(r.denominator for r in ratios)))
    period = Node("*", (Number(common), unit))
    ours = _starts(a, ratios[: len(a)], common)
    theirs = _starts(b, ratios[len(a) :], common)
    return _within(line, ours, theirs, period) and _within(line, theirs, ours, period)


def _ratio(line: Line, step: Tree, unit: Tree) -> Fraction | None:
    """Return the size of a step in units if that is a simple fraction."""
    value = number(Node("/", (step, unit)))
    ratio = abs(value if isinstance(value, Fraction) else Fraction(str(value)).limit_denominator(_LARGEST_RATIO))
    fits = any(line.equal(step, Node("*", (Number(sign * ratio), unit))) for sign in (1, -1))
    return ratio if fits and ratio else None


def _starts(progressions: list[Progression], ratios: list[Fraction], common: Fraction) -> list[Tree]:
    """Return all that lies within one period of the common step."""
    found: list[Tree] = []
    for progression, ratio in zip(progressions, ratios, strict=True):
        turns = common / ratio
        if len(found) + turns > 2 * MAX_PARTS:
            raise NotJudged("families of numbers with too many steps")
        for turn in range(int(turns)):
            moved = Node("*", (Number(Fraction(turn)), progression.step))
            found.append(Node("+", (progression.start, moved)))
    return found


def _within(line: Line, a: list[Tree], b: list[Tree], period: Tree) -> bool:
    """Return whether each start of one list is one of the other's, up to whole periods."""
    return all(any(_is_whole(line, start, other, period) for other in b) for start in a)


def _is_whole(line: Line, start: Tree, other: Tree, period: Tree) -> bool:
    """Return whether two starts differ by a whole number of periods."""
    turns = Number(Fraction(nearest_whole(Node("/", (minus(start, other), period)))))
    return line.equal(start, Node("+", (other, Node("*", (turns, period)))))
