"""Whether two answers are the same set of real numbers, each in whatever notation: intervals and their unions, relations
in one variable, points, set-builders, R without some points, words such as "all real numbers".

Both are read into intervals that do not overlap (`intervals`), and these are compared end by end. A pair (a, b) is an
interval only if the other side is a set beyond doubt. The variable's name does not matter between a relation and an
interval, but it does between two relations.
"""

from __future__ import annotations

from rethink.grading.formulas import domains
from rethink.grading.formulas.families import equal_families, is_family
from rethink.grading.formulas.inequalities import NotSolved
from rethink.grading.formulas.intervals import Cut, Line, Reals
from rethink.grading.formulas.set_reader import (
    RELATIONS,
    NotASet,
    Reader,
    is_quantity,
    is_relation,
    is_visible,
    normal,
)
from rethink.grading.formulas.set_units import readings
from rethink.grading.formulas.structure import free_names
from rethink.grading.formulas.tree import INTERVALS, LISTS, SETS, Constant, Name, Node, Tree, walk
from rethink.grading.formulas.verdicts import NotJudged, every


def equal_sets(a: Tree, b: Tree, seed: str = "") -> bool | None:
    """Return whether two trees are the same set of real numbers; None if not both can be read as sets, or neither is one
    beyond doubt. Raise NotJudged if it cannot be told."""
    if not (is_set(a) or is_set(b)):
        return None
    a, b = normal(a), normal(b)
    verdict: bool | None = False
    for first, second in readings(a, b):
        verdict = _equal_or_families(first, second, seed)
        if verdict is not False:
            return verdict
    return verdict


def is_set(tree: Tree) -> bool:
    """Return whether a tree is a set beyond doubt."""
    return is_visible(tree) or is_visible(normal(tree))


def has_conditions(tree: Tree) -> bool:
    """Return whether a tree says what set something is in, or is a list with an inequality or such a statement in it:
    x > 1, x < 4 or x = 2k, k \\in Z."""
    if not isinstance(tree, Node) or tree.operator not in LISTS:
        return isinstance(tree, Node) and (tree.operator == "in" or _is_labelled(tree))
    return any(is_relation(part) and is_visible(part) for part in tree.operands)


def _is_labelled(tree: Node) -> bool:
    """Return whether a tree is D = followed by a union or difference, whose label says nothing."""
    body = tree.operands[1] if tree.operator == "=" else tree
    return isinstance(body, Node) and body.operator in ("cup", "cap", "setminus") and normal(tree) == normal(body)


def _equal_or_families(a: Tree, b: Tree, seed: str) -> bool | None:
    are_families = is_family(a), is_family(b)
    if any(are_families):
        verdict = equal_families(Line(seed), a, b)
        if verdict is not None:
            return verdict
    verdicts: set[bool | None] = set()
    for zero_is_natural in (False, True) if Constant("N") in (*walk(a), *walk(b)) else (False,):
        verdicts.add(_equal(a, b, Line(seed, zero_is_natural)))
    if len(verdicts) > 1:
        raise NotJudged("whether 0 is a natural number")
    if None in verdicts and are_families[0] != are_families[1] and _is_readable(b if are_families[0] else a):
        return False
    return verdicts.pop()


def _is_readable(tree: Tree) -> bool:
    """Return whether a tree can be read as a set, of whatever numbers."""
    try:
        Reader(Line(), _chosen(variables(tree), None, tree)).read(tree)
    except (NotASet, NotSolved, NotJudged):
        return False
    return True


def _equal(a: Tree, b: Tree, line: Line) -> bool | None:
    ours, theirs = variables(a), variables(b)
    variable, other = _chosen(ours, theirs, b), _chosen(theirs, ours, a)
    unsolved = 0
    found: list[Reals] = []
    for tree, name in ((a, variable), (b, other)):
        try:
            found.append(Reader(line, name).read(tree))
        except NotASet:
            return None
        except NotSolved:
            unsolved += 1
    if unsolved == 1 and not (ours and theirs):
        raise NotJudged("an inequality that is not solved")
    if unsolved:
        return None
    first, second = found
    if first.within != second.within and "Z" in (first.within, second.within):
        _refuse_if_unsaid(line, (a, first), (b, second))
    first, second = _whole_numbers(first), _whole_numbers(second)
    if variable is not None and other is not None and variable != other:
        return _equal_for_other_names(line, variable, other, first, second)
    return _same(line, first, second)


def _equal_for_other_names(line: Line, variable: Tree, other: Tree, first: Reals, second: Reals) -> bool:
    are_names = isinstance(variable, Name) and isinstance(other, Name)
    if not are_names and _same(line, first, second):
        raise NotJudged("the same relation for another quantity")
    return False


def _same(line: Line, a: Reals, b: Reals) -> bool:
    """Return whether two sets are equal."""
    if a.is_finite or b.is_finite:
        return a.is_finite and b.is_finite and _same_points(line, a, b)
    if a.within != b.within:
        return False
    if len(a.intervals) != len(b.intervals):
        return False
    pairs: list[tuple[Cut, Cut]] = []
    for ours, theirs in zip(a.intervals, b.intervals, strict=True):
        pairs += zip(ours, theirs, strict=True)
    if any(ours.behind != theirs.behind for ours, theirs in pairs):
        return False
    return every([(ours.value, theirs.value) for ours, theirs in pairs], line.equal)


def _same_points(line: Line, a: Reals, b: Reals) -> bool:
    """Return whether two finite sets, without doubles, have the same points in any order."""
    if len(a.intervals) != len(b.intervals):
        return False
    left = [interval[0].value for interval in b.intervals]
    for interval in a.intervals:
        match = next((other for other in left if line.equal(interval[0].value, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _refuse_if_unsaid(line: Line, a: tuple[Tree, Reals], b: tuple[Tree, Reals]) -> None:
    """Raise NotJudged if one of two relations is said to be about whole numbers, and the other one may be too."""
    for tree, s in (a, b):
        parts = [part for part in walk(tree) if isinstance(part, Node) and part.operator in INTERVALS]
        if s.within != "Z" and (s.within != "R" or parts or s.is_finite or variables(tree) is None):
            return
    if _same(line, domains.whole_numbers(a[1]), domains.whole_numbers(b[1])):
        raise NotJudged("only one of the sets is said to be of whole numbers")


def _whole_numbers(s: Reals) -> Reals:
    return domains.whole_numbers(s) if s.within == "Z" else s


def variables(tree: Tree) -> set[Tree] | None:
    """Return what all relations of a tree can be solved for; None if there are no relations."""
    found: set[Tree] | None = None
    for relation in _relations(tree):
        here = {side for side in relation.operands if is_quantity(side)}
        free = free_names(relation)
        if len(free) == 1:
            here |= {Name(name) for name in free}
        found = here if found is None else found & here
    return found


def _relations(tree: Tree) -> list[Node]:
    if not isinstance(tree, Node):
        return []
    if tree.operator in RELATIONS:
        return [Node("in", tree.operands[:1])] if tree.operator in ("in", "notin") else [tree]
    found: list[Node] = []
    if tree.operator in (*LISTS, *SETS[:-1], "chain"):
        for part in tree.operands:
            found += _relations(part)
    return found


def _chosen(ours: set[Tree] | None, theirs: set[Tree] | None, other: Tree) -> Tree | None:
    """Return the variable of a side. Parameters of the other side are none."""
    if ours is None:
        return None
    if theirs is not None and ours & theirs:
        ours = ours & theirs
    if len(ours) > 1:
        ours = {name for name in ours if name not in walk(other)}
    return ours.pop() if len(ours) == 1 else Name("")
