"""Sums with a name as their upper bound, compared with a formula by induction."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.tree import Name, Node, Number, Tree, minus, names, with_parts
from rethink.grading.formulas.verdicts import Equal, NotJudged


def equal_by_induction(a: Tree, b: Tree, agree: Equal) -> bool:
    """Return whether it can be shown that a sum up to n equals a formula.

    It does if the formula's value at the first index is the first term, and grows by the term from n - 1 to n."""
    if _is_sum(a) == _is_sum(b):
        return False
    whole, formula = (a, b) if _is_sum(a) else (b, a)
    assert isinstance(whole, Node)
    term, index, start, end = whole.operands
    assert isinstance(index, Name)
    assert isinstance(end, Name)
    before = Node("+", (end, Number(Fraction(-1))))
    growth = minus(formula, _put(formula, end, before))
    try:
        first = agree(_put(term, index, start), _put(formula, end, start))
        return first and agree(_put(term, index, end), growth)
    except NotJudged:
        return False


def _is_sum(tree: Tree) -> bool:
    if not isinstance(tree, Node) or tree.operator != "sum" or len(tree.operands) != 4:
        return False
    term, index, start, end = tree.operands
    is_plain = isinstance(index, Name) and isinstance(end, Name) and isinstance(start, Number)
    return is_plain and end != index and isinstance(end, Name) and end.name not in names(term)


def _put(tree: Tree, name: Tree, value: Tree) -> Tree:
    """Return the tree with a value for a name."""
    if tree == name:
        return value
    if isinstance(tree, Node) and tree.operator == "apply" and tree.operands[0] == name:  # n(n + 1)
        tree = Node("*", tree.operands)
    return with_parts(tree, lambda part: _put(part, name, value))
