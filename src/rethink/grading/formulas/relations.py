"""Equations, inequalities and other relations, and chains of them."""

from __future__ import annotations

from collections.abc import Callable

from rethink.grading.formulas.estimates import estimate
from rethink.grading.formulas.tree import RELATIONS, Node, Tree, is_collection, minus, names
from rethink.grading.formulas.verdicts import Equal, any_of, every, same_items

_SWAPPED = {">": "<", ">=": "<="}
_SYMMETRIC = frozenset(("=", "!=", "approx", "equiv", "sim", "cong", "parallel", "perp"))
_ORDER = frozenset(("<", "<="))
_EXPRESSIONS = ("=", "!=", "<", "<=")
Equations = Callable[[Node, Node], bool]
"""Whether two equations are the same up to a constant factor."""


def is_statement(tree: Tree) -> bool:
    """Return whether a tree is a statement and not a value; x \\equiv 3 \\pmod 7 is one, 3 \\pmod 7 is none."""
    if isinstance(tree, Node) and tree.operator == "mod":
        return is_statement(tree.operands[0])
    return isinstance(tree, Node) and (tree.operator in RELATIONS or tree.operator == "chain")


def equal_relations(a: Node, b: Node, equal: Equal, equations: Equations) -> bool:
    """Return whether two statements are the same: sides swapped, moved from one side to the other, or multiplied."""
    if "chain" in (a.operator, b.operator):
        return a.operator == b.operator and _equal_chains(a, b, equal, equations)
    a, b = _left_to_right(a), _left_to_right(b)
    if a.operator != b.operator:
        return False
    swapped = (b.operands[1], b.operands[0])
    checks = [lambda: every(zip(a.operands, b.operands, strict=True), equal)]
    if a.operator in _SYMMETRIC:
        checks.append(lambda: every(zip(a.operands, swapped, strict=True), equal))
    if (
        a.operator in _EXPRESSIONS
        and (names(a) or names(b))
        and not any(map(is_collection, (*a.operands, *b.operands)))
    ):
        if a.operator in _ORDER:
            checks.append(lambda: equal(minus(*a.operands), minus(*b.operands)))
            checks.append(lambda: equations(a, b) and _same_direction(a, b))
        else:
            checks.append(lambda: equations(a, b))
    return any_of(checks)


def _left_to_right(relation: Node) -> Node:
    """Return a > b as b < a."""
    if relation.operator in _SWAPPED:
        return Node(_SWAPPED[relation.operator], (relation.operands[1], relation.operands[0]))
    return relation


def _same_direction(a: Node, b: Node) -> bool:
    """Return whether the constant factor between two inequalities is positive."""
    first, second = estimate(minus(*a.operands)), estimate(minus(*b.operands))
    return first is not None and second is not None and first * second > 0


def sides(chain: Node) -> tuple[list[Tree], list[str]]:
    """Return the sides of a chain (or of a single relation) and the relations between them."""
    links = chain.operands if chain.operator == "chain" else (chain,)
    found: list[Tree] = []
    operators: list[str] = []
    for link in links:
        assert isinstance(link, Node)
        found += link.operands if not found else link.operands[1:]
        operators.append(link.operator)
    return found, operators


def _equal_chains(a: Node, b: Node, equal: Equal, equations: Equations) -> bool:
    if len(a.operands) != len(b.operands):
        return False
    if all(isinstance(link, Node) and link.operator == "=" for link in (*a.operands, *b.operands)):
        return same_items(sides(a)[0], sides(b)[0], equal)

    def equal_links(x: Tree, y: Tree) -> bool:
        return isinstance(x, Node) and isinstance(y, Node) and equal_relations(x, y, equal, equations)

    return every(zip(_ascending(a), _ascending(b), strict=True), equal_links)


def _ascending(chain: Node) -> list[Tree]:
    """Return the links of a chain; those of a > b > c as of c < b < a."""
    found: list[Tree] = []
    is_descending = False
    for link in chain.operands:
        assert isinstance(link, Node)
        is_descending = is_descending or link.operator in _SWAPPED
        found.append(_left_to_right(link))
    return found[::-1] if is_descending else found
