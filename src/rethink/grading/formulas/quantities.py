"""Values with units, percent and degrees, and numbers with a base.

A unit may be missing on one side, because questions often name it; so may a base. Where both sides have one, they must
mean the same: 1 m is 100 cm, and 5 cm is not 5 m."""

from __future__ import annotations

from rethink.grading.formulas.tree import Constant, Measured, Node, Number, Tree, Unit
from rethink.grading.formulas.verdicts import Equal, some
from rethink.grading.formulas.words import plain_text

_PURE = frozenset(("rad", "%"))
"""Base units of mere numbers: an angle of 60 degrees is pi/3, and 50% is 1/2."""


def equal_quantities(a: Tree, b: Tree, agree: Equal) -> bool:
    """Return whether two values are equal, each with or without a unit."""
    ours, theirs = quantities(a), quantities(b)
    if ours and theirs:
        return ours[0].unit.powers == theirs[0].unit.powers and (
            agree(ours[0].value, theirs[0].value)
            if ours[0].unit == theirs[0].unit
            else agree(_base(ours[0]), _base(theirs[0]))
        )
    if not ours and not theirs:
        return agree(a, b)
    plain = b if ours else a
    readings: list[Tree] = []
    for one in ours or theirs:
        readings.append(one.value)
        if all(name in _PURE for name, _ in one.unit.powers):
            readings.append(_base(one))
    return some(((x, plain) if ours else (plain, x) for x in readings), agree)


def quantities(tree: Tree) -> list[Measured]:
    """Return a value with its unit, or 5 h 30 min in each of its units; [] for a value without a unit."""
    one = _quantity(tree)
    if one is not None:
        return [one]
    if not (isinstance(tree, Node) and tree.operator == "+"):
        return []
    terms: list[Measured] = []
    for part in tree.operands:
        term = _quantity(part)
        if term is None or (terms and term.unit.powers != terms[0].unit.powers):
            return []
        terms.append(term)
    total = Node("+", tuple(_base(term) for term in terms))
    found: list[Measured] = []
    for unit in dict.fromkeys(term.unit for term in terms):
        found.append(Measured(Node("/", (total, _factor(unit))), unit))
    return found


def _quantity(tree: Tree) -> Measured | None:
    """Return the unit of a value, of its negative, or of a product or quotient, with the value in it."""
    if isinstance(tree, Measured):
        return tree
    if not isinstance(tree, Node) or tree.operator not in ("-", "*", "/"):
        return None
    with_unit = [n for n, part in enumerate(tree.operands) if _quantity(part) is not None]
    if len(with_unit) != 1 or (tree.operator == "/" and with_unit[0] == 1):
        return None
    inner = _quantity(tree.operands[with_unit[0]])
    if inner is None:
        return None
    operands = list(tree.operands)
    operands[with_unit[0]] = inner.value
    return Measured(Node(tree.operator, tuple(operands)), inner.unit)


def _base(one: Measured) -> Tree:
    """Return the value in base units."""
    return Node("*", (one.value, _factor(one.unit)))


def _factor(unit: Unit) -> Tree:
    factor: Tree = Number(unit.factor)
    return Node("*", (factor, Constant("pi"))) if unit.pi else factor


def is_based(tree: Tree) -> bool:
    """Return whether a number is written with its base, as 1011_2."""
    return isinstance(tree, Node) and tree.operator == "based"


def equal_based(a: Tree, b: Tree) -> bool:
    """Return whether the digits are the same, and the bases too unless one is missing."""
    bases = [tree.operands[1] for tree in (a, b) if isinstance(tree, Node) and tree.operator == "based"]
    return _digits(a) == _digits(b) is not None and len(set(bases)) == 1


def _digits(tree: Tree) -> str | None:
    if isinstance(tree, Node) and tree.operator == "based":
        return plain_text(tree.operands[0])
    return plain_text(tree)
