"""Solve relations in one variable: x > 3, 2 < x, 2x - 1 >= 5, |x - 2| < 3."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.intervals import (
    Line,
    Reals,
    above,
    below,
    complement,
    intersection,
    point,
    rational,
    union,
)
from rethink.grading.formulas.structure import free_names, infinite
from rethink.grading.formulas.tree import Name, Node, Number, Tree, minus, walk
from rethink.grading.formulas.verdicts import NotJudged

ORDERS = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
"""The relations that are solved; each with the one between the sides in the other order."""
_ZERO = Number(Fraction(0))
Linear = tuple[Fraction, Tree]


class NotSolved(Exception):
    """A relation that is not linear in its variable."""


def solve(line: Line, relation: str, left: Tree, right: Tree, variable: Tree) -> Reals:
    """Return the values of the variable for which a relation holds. Raise NotSolved if it is not linear."""
    if right == variable or (_has(right, variable) and not _has(left, variable)):
        left, relation, right = right, ORDERS[relation], left
    if left == variable and not _has(right, variable):
        return _side(line, relation, right)
    if isinstance(left, Node) and left.operator == "abs" and not _has(right, variable):
        inner = left.operands[0]
        if variable == Name("z") or any(isinstance(part, Node) and part.operator == "abs" for part in walk(inner)):
            raise NotSolved  # z may be complex
        return _solve_absolute(line, relation, inner, right, variable)
    ours, theirs = _linear(left, variable), _linear(right, variable)
    slope = ours[0] - theirs[0]
    if slope == 0:
        raise NotSolved
    difference = minus(theirs[1], ours[1])
    end = Node("/", (difference, Number(slope))) if slope != 1 else difference
    return _side(line, relation if slope > 0 else ORDERS[relation], _as_number(end))


def _solve_absolute(line: Line, relation: str, inner: Tree, size: Tree, variable: Tree) -> Reals:
    """Solve |f| < c as -c < f < c, |f| > c as f < -c or f > c."""
    minus = _as_number(Node("-", (size,)))
    if relation in ("=", "!="):
        if not infinite(size) and line.compare(size, _ZERO) < 0:
            raise NotSolved
        points = union(line, [solve(line, "=", inner, end, variable) for end in (size, minus)])
        return points if relation == "=" else complement(line, points)
    both = [solve(line, relation, inner, size, variable), solve(line, ORDERS[relation], inner, minus, variable)]
    return intersection(line, both) if relation in ("<", "<=") else union(line, both)


def _side(line: Line, relation: str, end: Tree) -> Reals:
    if relation in ("=", "!="):
        if infinite(end):
            raise NotSolved
        return point(end) if relation == "=" else complement(line, point(end))
    closed = relation in ("<=", ">=")
    return below(end, closed) if relation in ("<", "<=") else above(end, closed)


def _has(tree: Tree, variable: Tree) -> bool:
    return any(part == variable for part in walk(tree))


def _as_number(tree: Tree) -> Tree:
    """Return a rational end point as a plain number."""
    if free_names(tree) or infinite(tree):
        return tree
    try:
        value = rational(tree)
    except NotJudged:
        return tree
    return tree if value is None else Number(value)


def _linear(tree: Tree, variable: Tree) -> Linear:
    """Return slope and intercept. Raise NotSolved if a tree is not linear with a rational slope."""
    if tree == variable:
        return Fraction(1), _ZERO
    if not _has(tree, variable):
        return Fraction(0), tree
    if not isinstance(tree, Node):
        raise NotSolved
    if tree.operator == "+":
        total, rests = Fraction(0), []
        for part in tree.operands:
            slope, rest = _linear(part, variable)
            total += slope
            rests.append(rest)
        return total, Node("+", tuple(rests))
    if tree.operator == "-" and len(tree.operands) == 1:
        slope, rest = _linear(tree.operands[0], variable)
        return -slope, Node("-", (rest,))
    if tree.operator == "/":
        divisor = _factor(tree.operands[1])
        slope, rest = _linear(tree.operands[0], variable)
        if divisor == 0:
            raise NotSolved
        return slope / divisor, Node("/", (rest, Number(divisor)))
    if tree.operator == "*":
        inner = [part for part in tree.operands if _has(part, variable)]
        if len(inner) > 1:
            raise NotSolved
        factor = Fraction(1)
        for part in tree.operands:
            factor *= Fraction(1) if part == inner[0] else _factor(part)
        slope, rest = _linear(inner[0], variable)
        return slope * factor, Node("*", (Number(factor), rest))
    raise NotSolved


def _factor(tree: Tree) -> Fraction:
    if free_names(tree):
        raise NotSolved
    value = rational(tree)
    if value is None:
        raise NotSolved
    return value
