"""Notations of derivatives: \\dot{x} is \\frac{dx}{dt}, and y' is \\frac{dy}{dx}, if both occur in a pair."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.tree import Name, Node, Number, Tree, names, with_parts

_DOTS = {Fraction(1): "\\dot", Fraction(2): "\\ddot"}


def same_notation(a: Tree, b: Tree) -> tuple[Tree, Tree]:
    """Return both with dots or primes instead of quotients, if one has dots or primes."""
    used = names(a) | names(b)
    dots = any(name.startswith(("\\dot{", "\\ddot{")) for name in used)
    primes = any(name.endswith("'") for name in used)
    if not dots and not primes:
        return a, b
    return _renamed(a, dots), _renamed(b, dots)


def _renamed(tree: Tree, dots: bool) -> Tree:
    if isinstance(tree, Node) and tree.operator == "derivative":
        order, function, *variables = tree.operands
        if (
            isinstance(order, Number)
            and isinstance(function, Name)
            and order.value in _DOTS
            and len(set(variables)) == 1
        ):
            if not dots:
                return Name(function.name + "'" * int(order.value))
            if variables[0] == Name("t"):
                stem, mark, subscript = function.name.partition("_")
                return Name(f"{_DOTS[order.value]}{{{stem}}}{mark}{subscript}")
    return with_parts(tree, lambda part: _renamed(part, dots))
