"""Derivatives: two notations of one, such as \\dot{x} and \\frac{dx}{dt}, and the rules that work out \\frac{d}{dx} x^2."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import islice

from rethink.grading.formulas.tree import Name, Node, Number, Tree, names, walk, with_parts

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


_MOST_PARTS = 1_000
"""Longer formulas are not differentiated: every derivative is several times as long as what it is of."""
_UNKNOWN = ("apply", "derivative", "partial", "integral", "limit", "sum", "product")


def worked_out(tree: Tree) -> Tree:
    """Return the tree with the derivatives of explicit formulas worked out; others stay.

    In \\frac{d}{dx} (xy), y may depend on x, so this stays, too."""
    tree = with_parts(tree, worked_out)
    if not isinstance(tree, Node) or tree.operator not in ("derivative", "partial"):
        return tree
    _, function, *variables = tree.operands
    is_explicit = not any(isinstance(part, Node) and part.operator in _UNKNOWN for part in walk(function))
    known = {variable.name for variable in variables if isinstance(variable, Name)} | {"e", "i"}
    if (
        isinstance(function, Name)
        or not is_explicit
        or (tree.operator == "derivative" and not names(function) <= known)
    ):
        return tree
    for variable in variables:
        is_long = next(islice(walk(function), _MOST_PARTS, None), None) is not None
        found = None if is_long else derivative(function, variable)
        if found is None:
            return tree
        function = found
    return function


def derivative(tree: Tree, x: Tree) -> Tree | None:
    """Return the derivative by a variable; None if no rule is known."""
    if tree == x:
        return _number(1)
    if x not in walk(tree):
        return _number(0)
    if not isinstance(tree, Node):
        return None
    inner: list[Tree] = []
    for part in tree.operands:
        found = derivative(part, x)
        if found is None:
            return None
        inner.append(found)
    rule = _RULES.get(tree.operator)
    if rule is not None:
        return rule(tree, inner)
    outer = _OUTER.get(tree.operator)
    return _times(outer(tree.operands[0]), inner[0]) if outer and len(inner) == 1 else None


def _number(n: int) -> Tree:
    return Number(Fraction(n))


def _times(*factors: Tree) -> Tree:
    return Node("*", factors)


def _over(top: Tree, bottom: Tree) -> Tree:
    return Node("/", (top, bottom))


def _product(tree: Node, inner: list[Tree]) -> Tree:
    terms: list[Tree] = []
    for n, found in enumerate(inner):
        terms.append(_times(*tree.operands[:n], found, *tree.operands[n + 1 :]))
    return Node("+", tuple(terms))


def _quotient(tree: Node, inner: list[Tree]) -> Tree:
    top, bottom = tree.operands
    difference = Node("+", (_times(inner[0], bottom), Node("-", (_times(top, inner[1]),))))
    return _over(difference, _times(bottom, bottom))


def _power(tree: Node, inner: list[Tree]) -> Tree:
    base, exponent = tree.operands
    if inner[1] == _number(0):
        lower = Node("^", (base, Node("+", (exponent, _number(-1)))))
        return _times(exponent, lower, inner[0])
    if base == Name("e"):
        return _times(tree, inner[1])
    growth = Node("+", (_times(inner[1], Node("ln", (base,))), _over(_times(exponent, inner[0]), base)))
    return _times(tree, growth)


def _root(tree: Node, inner: list[Tree]) -> Tree | None:
    radicand, degree = tree.operands
    return _over(_times(tree, inner[0]), _times(degree, radicand)) if inner[1] == _number(0) else None


def _logarithm(tree: Node, inner: list[Tree]) -> Tree | None:
    if len(inner) < 2 or inner[1] != _number(0):
        return None
    return _over(inner[0], _times(tree.operands[0], Node("ln", (tree.operands[1],))))


def _of(operator: str) -> Callable[[Tree], Tree]:
    return lambda u: Node(operator, (u,))


_RULES: dict[str, Callable[[Node, list[Tree]], Tree | None]] = {
    "+": lambda tree, inner: Node("+", tuple(inner)),
    "-": lambda tree, inner: Node("-", tuple(inner)),
    "*": _product,
    "/": _quotient,
    "^": _power,
    "root": _root,
    "log": _logarithm,
}
_OUTER: dict[str, Callable[[Tree], Tree]] = {
    "sin": _of("cos"),
    "cos": lambda u: Node("-", (Node("sin", (u,)),)),
    "tan": lambda u: _over(_number(1), Node("^", (Node("cos", (u,)), _number(2)))),
    "exp": _of("exp"),
    "ln": lambda u: _over(_number(1), u),
    "sinh": _of("cosh"),
    "cosh": _of("sinh"),
    "arctan": lambda u: _over(_number(1), Node("+", (_number(1), _times(u, u)))),
}
