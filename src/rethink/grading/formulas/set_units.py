"""Units of sets, as in (0^\\circ, 90^\\circ), 3 < x < 5 \\text{ cm}, (0, 5) \\text{ cm}: one unit for all end points."""

from __future__ import annotations

from rethink.grading.formulas.set_reader import RELATIONS
from rethink.grading.formulas.tree import INTERVALS, LISTS, SETS, Constant, Measured, Node, Number, Tree, Unit

_AROUND = frozenset((*RELATIONS, *LISTS, *INTERVALS, *SETS, "chain", "-"))
"""Operators whose operands keep their units."""
_DEGREES = (("rad", 1),)


def readings(a: Tree, b: Tree) -> list[tuple[Tree, Tree]]:
    """Return how two sets can be compared: without units if these are the same or one side has none; degrees also as
    radians.
    """
    ours, theirs = _units(a), _units(b)
    if len(ours) > 1 or len(theirs) > 1 or not (ours or theirs):
        return [(a, b)]
    if ours and theirs and ours != theirs:
        return [(_in_base_units(a), _in_base_units(b))] if _powers(ours) == _powers(theirs) else []
    found = [(_without_units(a), _without_units(b))]
    if not (ours and theirs) and _powers(ours | theirs) == _DEGREES:
        found.append((_in_base_units(a), _in_base_units(b)))
    return found


def _powers(units: set[Unit]) -> tuple[tuple[str, int], ...]:
    return next(iter(units)).powers


def _units(tree: Tree) -> set[Unit]:
    if isinstance(tree, Measured):
        return {tree.unit}
    found: set[Unit] = set()
    if isinstance(tree, Node) and tree.operator in _AROUND:
        for part in tree.operands:
            found |= _units(part)
    return found


def _without_units(tree: Tree) -> Tree:
    if isinstance(tree, Measured):
        return tree.value
    if isinstance(tree, Node) and tree.operator in _AROUND:
        return Node(tree.operator, tuple(map(_without_units, tree.operands)))
    return tree


def _in_base_units(tree: Tree, unit: Unit | None = None) -> Tree:
    """Return a set with numbers in base units. End points without a unit, as in 30 < x < 60^\\circ, have that of others."""
    unit = unit or next(iter(_units(tree)), None)
    if isinstance(tree, Measured):
        factor: Tree = Number(tree.unit.factor)
        if tree.unit.pi:
            factor = Node("*", (factor, Constant("pi")))
        return Node("*", (tree.value, factor))
    if isinstance(tree, Node) and tree.operator in _AROUND:
        return Node(tree.operator, tuple(_in_base_units(part, unit) for part in tree.operands))
    if isinstance(tree, Number) and unit is not None:
        return _in_base_units(Measured(tree, unit))
    return tree
