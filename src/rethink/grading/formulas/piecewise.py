"""Functions defined by cases: each value with its condition, in any order."""

from __future__ import annotations

from rethink.grading.formulas.tree import Node, Tree, Words
from rethink.grading.formulas.verdicts import Equal, same_items

_OTHERWISE = ("otherwise", "else", "elsewhere")


def is_piecewise(tree: Tree) -> bool:
    """Return whether a tree has cases with conditions; a system of equations has none."""
    return isinstance(tree, Node) and tree.operator == "cases" and any(len(_parts(case)) > 1 for case in tree.operands)


def equal_pieces(a: Node, b: Node, equal: Equal) -> bool:
    """Return whether each value has an equal one under an equal condition. `otherwise` stands for what the others leave."""
    if len(a.operands) != len(b.operands):
        return False
    open_end = any(map(_is_otherwise, (*a.operands, *b.operands)))

    def equal_cases(x: Tree, y: Tree) -> bool:
        value, *condition = _parts(x)
        other, *wanted = _parts(y)
        if not equal(value, other):
            return False
        if open_end and (_is_otherwise(x) or _is_otherwise(y)):
            return True
        return len(condition) == len(wanted) == 1 and equal(condition[0], wanted[0])

    return same_items(a.operands, b.operands, equal_cases)


def _parts(case: Tree) -> tuple[Tree, ...]:
    return case.operands if isinstance(case, Node) else (case,)


def _is_otherwise(case: Tree) -> bool:
    parts = _parts(case)
    if len(parts) == 1:
        return True
    return isinstance(parts[1], Words) and parts[1].text.casefold().strip(" .,") in _OTHERWISE
