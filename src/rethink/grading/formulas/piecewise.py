"""Functions defined by cases: each value with its condition, in any order."""

from __future__ import annotations

from rethink.grading.formulas.tree import Constant, Name, Node, Tree, Words, names
from rethink.grading.formulas.verdicts import Equal, same_items

_OTHERWISE = ("otherwise", "else", "elsewhere")


def is_piecewise(tree: Tree) -> bool:
    """Return whether a tree has cases with conditions; a system of equations has none."""
    return isinstance(tree, Node) and tree.operator == "cases" and any(len(_parts(case)) > 1 for case in tree.operands)


def equal_pieces(a: Node, b: Node, equal: Equal) -> bool:
    """Return whether each value has an equal one under an equal condition."""
    if len(a.operands) != len(b.operands):
        return False

    def equal_cases(x: Tree, y: Tree) -> bool:
        value, *_ = _parts(x)
        other, *_ = _parts(y)
        return equal(value, other) and _equal_conditions(_condition(x, a), _condition(y, b), equal)

    return same_items(a.operands, b.operands, equal_cases)


def _equal_conditions(a: Tree | None, b: Tree | None, equal: Equal) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and equal(a, b))


def _condition(case: Tree, whole: Node) -> Tree | None:
    """Return the condition of a case; for `otherwise`, what the other conditions leave; None if that is not known."""
    parts = _parts(case)
    if not _is_otherwise(case):
        return parts[1]
    left: list[Tree] = [Constant("R")]
    for other in whole.operands:
        if other is not case:
            if _is_otherwise(other) or len(names(_parts(other)[1])) != 1:
                return None
            condition = _parts(other)[1]
            left.append(Node("such that", (Name(*names(condition)), condition)))
    return Node("setminus", tuple(left))


def _parts(case: Tree) -> tuple[Tree, ...]:
    return case.operands if isinstance(case, Node) else (case,)


def _is_otherwise(case: Tree) -> bool:
    parts = _parts(case)
    if len(parts) == 1:
        return True
    return isinstance(parts[1], Words) and parts[1].text.casefold().strip(" .,") in _OTHERWISE
