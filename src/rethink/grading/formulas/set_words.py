"""Sets that are said partly in words: "all x > 3", "all real numbers except 3", "all real numbers greater than 2"."""

from __future__ import annotations

from rethink.grading.formulas import domains
from rethink.grading.formulas.inequalities import ORDERS
from rethink.grading.formulas.tree import LISTS, Name, Node, Tree

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
    excepted = domains.excepted(said)
    if excepted is not None:
        return Node("setminus", (excepted, rest))
    limit = domains.limit(said)
    if limit is not None:
        bound = Name("")
        return Node("such that", (Node("in", (bound, limit[0])), Node(limit[1], (bound, rest))))
    among = domains.quantifier(said)
    return among if among is not None and isinstance(rest, Name) else tree


def _in_front(tree: Node, first: Node, others: list[Tree]) -> Tree:
    """Read words in front of a relation or list: "all x > 3", "all real numbers except 1 and 2"."""
    if first.operator != "*" or len(first.operands) != 2:
        return tree
    said, name = first.operands
    excepted = domains.excepted(said)
    if excepted is not None:
        without = others if tree.operator == "=" else [name, *map(_right_side, others)]
        return Node("setminus", (excepted, *without))
    among = domains.quantifier(said)
    if among is None or not isinstance(name, Name):
        return tree
    if tree.operator in _RELATIONS:
        others = [Node(tree.operator, (name, *others))]
    return Node(",", (Node("in", (name, among)), *others))


def _right_side(tree: Tree) -> Tree:
    """Return the 3 of x = 3."""
    return tree.operands[1] if isinstance(tree, Node) and tree.operator == "=" else tree
