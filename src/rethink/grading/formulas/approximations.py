"""Answers with an approximate sign: \\frac13 \\approx 0.33 states an exact value, x \\approx 5 does not."""

from __future__ import annotations

from rethink.grading.formulas.estimates import estimate
from rethink.grading.formulas.fronts import front, named
from rethink.grading.formulas.relations import sides
from rethink.grading.formulas.structure import free_names
from rethink.grading.formulas.tree import Node, Tree

NEAR = 0.05
"""A rounded value differs from the exact one by at most this part of it."""


def is_approximate(tree: Tree) -> bool:
    """Return whether a tree is a statement with an approximate sign, or has one in front."""
    return isinstance(tree, Node) and (
        tree.operator == "approx" or (tree.operator == "chain" and "approx" in sides(tree)[1])
    )


def exact(tree: Tree) -> Tree | None:
    """Return what stands before the approximate sign, if it is a value, and what follows is near it; None otherwise."""
    before, after = _split(tree)
    if before is None:
        return None
    last = sides(before)[0][-1] if isinstance(before, Node) and before.operator in ("=", "chain") else before
    return before if all(_is_near(last, side) for side in after) else None


def rounded(tree: Tree) -> list[Tree]:
    """Return what stands behind the approximate signs, with the name in front if only a name is before them."""
    assert isinstance(tree, Node)
    if len(tree.operands) == 1:
        return [tree.operands[0]]
    before, after = _split(tree)
    if before is not None:
        return after
    name = sides(tree)[0][0]
    return [Node("=", (name, side)) for side in after]


def real_number(tree: Tree) -> float | None:
    """Return the value of a number without variables, such as 5/3, x = 5/3 or x = 5/3 \\approx 1.7; None for all else."""
    stated = rounded(tree)[-1] if is_approximate(tree) else tree
    found = named(stated)
    if len(found.names) > 1 or free_names(found.body):
        return None
    return estimate(found.body)


def _split(tree: Tree) -> tuple[Tree | None, list[Tree]]:
    """Return the value before the first approximate sign (None if there is only a name) and the sides behind it."""
    assert isinstance(tree, Node)
    if len(tree.operands) == 1:
        return None, []
    found, operators = sides(tree)
    at = operators.index("approx") + 1
    links: list[Tree] = []
    for n in range(at - 1):
        links.append(Node(operators[n], (found[n], found[n + 1])))
    if not links:
        return (None if front(found[0]) else found[0]), found[at:]
    return (links[0] if len(links) == 1 else Node("chain", tuple(links))), found[at:]


def _is_near(a: Tree, b: Tree) -> bool:
    exact_value, value = estimate(a), estimate(b)
    return exact_value is not None and value is not None and abs(exact_value - value) <= NEAR * abs(exact_value)
