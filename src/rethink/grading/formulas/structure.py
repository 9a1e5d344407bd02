"""Questions about trees: their variables, infinities, multiples of pi."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.tree import Constant, Measured, Name, Node, Number, Tree, walk

BINDING = frozenset(("sum", "product", "integral", "limit"))


def free_names(tree: Tree) -> set[str]:
    """Return the variables of a tree: its names without i, e, functions' names and the variables of sums."""
    found: set[str] = set()
    if isinstance(tree, Name):
        return {tree.name} - {"i", "e"}
    if isinstance(tree, Measured):
        return free_names(tree.value)
    if isinstance(tree, Node):
        for operand in tree.operands:
            found |= free_names(operand)
        if tree.operator in BINDING and len(tree.operands) > 1 and isinstance(tree.operands[1], Name):
            found = free_names(tree.operands[0]) - {tree.operands[1].name}
            for bound in tree.operands[2:]:
                found |= free_names(bound)
    return found


def words(tree: Tree) -> set[str]:
    """Return the names of a tree that are words, as "speed" and "not"; subscripts do not count."""
    found: set[str] = set()
    for part in walk(tree):
        if isinstance(part, Name) and re.search("[a-z]{2}", part.name.partition("_")[0]) and "\\" not in part.name:
            found.add(part.name)
    return found


def infinite(tree: Tree) -> int:
    """Return 1 or -1 for plus or minus infinity, else 0."""
    if isinstance(tree, Node) and tree.operator == "-" and len(tree.operands) == 1:
        return -infinite(tree.operands[0])
    return int(tree == Constant("infinity"))


def callee_name(tree: Node) -> str:
    """Return the name in front of parentheses, also in x^2(y+1); "" if there is none."""
    callee = tree.operands[0]
    if isinstance(callee, Node) and callee.operator == "^":
        callee = callee.operands[0]
    return callee.name if isinstance(callee, Name) else ""


def pi_multiple(tree: Tree) -> Tree | None:
    """Return the factor of pi in a tree such as n\\pi/2, or None if it is none."""
    if tree == Constant("pi"):
        return Number(Fraction(1))
    if not isinstance(tree, Node):
        return None
    parts: list[Tree] = list(tree.operands)
    if tree.operator in ("+", "-"):
        factors = [pi_multiple(part) for part in parts]
        return Node(tree.operator, tuple(factors)) if None not in factors else None  # type: ignore[arg-type]
    if tree.operator == "/" or tree.operator == "*":
        places = range(1) if tree.operator == "/" else range(len(parts))
        for k in places:
            factor = pi_multiple(parts[k])
            if factor is not None and not any(Constant("pi") in walk(p) for p in parts[:k] + parts[k + 1 :]):
                parts[k] = factor
                return Node(tree.operator, tuple(parts))
    return None


def is_whole(tree: Tree) -> bool:
    """Return whether a tree is a whole number."""
    if isinstance(tree, Node) and tree.operator == "-" and len(tree.operands) == 1:
        return is_whole(tree.operands[0])
    return isinstance(tree, Number) and tree.value.denominator == 1


def is_monomial(tree: Tree) -> bool:
    """Return whether the sign of a tree follows from the signs of its names."""
    if isinstance(tree, Node) and tree.operator in ("*", "/", "-", "^", "abs", "root"):
        return all(is_monomial(operand) for operand in tree.operands)
    return isinstance(tree, (Number, Name, Constant))


def square_factors(tree: Tree) -> tuple[list[Tree], list[Tree]]:
    """Return what is squared (or has another even power) in a product, and its other factors."""
    if not isinstance(tree, Node):
        return [], [tree]
    if tree.operator == "^":
        exponent = tree.operands[1]
        if isinstance(exponent, Number) and exponent.value.denominator == 1 and exponent.value % 2 == 0:
            return [tree.operands[0]], []
    if tree.operator not in ("*", "/") and not (tree.operator == "-" and len(tree.operands) == 1):
        return [], [tree]
    squares: list[Tree] = []
    others: list[Tree] = []
    for operand in tree.operands:
        own, rest = square_factors(operand)
        squares += own
        others += rest
    return squares, others
