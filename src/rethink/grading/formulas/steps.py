"""What a formula has that is not smooth: roots and absolute values, whose values may change with signs, and floors, sums
and powers of -1, which are meant for whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from rethink.grading.formulas.structure import free_names, is_monomial, is_whole, pi_multiple
from rethink.grading.formulas.tree import Constant, Name, Node, Number, Tree, walk

COUNTING = frozenset("ijklmnpqrsNMK")
"""First letters of the names that may count."""
ARCS = frozenset(("arcsin", "arccos", "arctan", "arccot", "arcosh", "artanh", "arg"))
ROOTS = frozenset(("root", "ln", "log"))
FOLDS = frozenset(("abs", "norm", "sgn", "max", "min"))
BRANCHES = FOLDS | ARCS | ROOTS | {"Re", "Im", "conjugate"}
STEPS = frozenset(("floor", "ceil", "mod", "gcd", "lcm", "!!", "sum", "product"))
_TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_LARGEST_PERIOD = 10**6

_SIGNED: frozenset[str] = frozenset("abpqstuwxyzijkn") | {
    "\\alpha",
    "\\beta",
    "\\gamma",
    "\\theta",
    "\\phi",
    "\\varphi",
    "\\delta",
}


def signed_names(names: list[str]) -> set[str]:
    """Return the names that may be negative: unknowns, coefficients and angles, also with subscripts.

    Other letters (r, m, L, \\rho) stand for magnitudes beside others, and so does c beside a magnitude.
    """
    signed: set[str] = set()
    speeds: set[str] = set()
    for name in names:
        base = name.split("_")[0].rstrip("'")
        if base in _SIGNED:
            signed.add(name)
        elif base in ("c", "C"):
            speeds.add(name)
    return signed | speeds if len(signed | speeds) == len(names) else signed


def nodes(tree: Tree) -> Iterator[Node]:
    """Yield the operators of a tree that depend on variables."""
    for part in walk(tree):
        if isinstance(part, Node) and free_names(part):
            yield part


def has_branches(tree: Tree, stand_ins: frozenset[str] = frozenset()) -> bool:
    """Return whether signs of variables may matter."""
    for node in nodes(tree):
        if node.operator in BRANCHES and node.operator not in stand_ins:
            return True
        if (
            "root" not in stand_ins
            and node.operator == "^"
            and free_names(node.operands[0])
            and not is_whole(node.operands[1])
        ):
            return True
    return False


def has_mixed_roots(tree: Tree) -> bool:
    """Return whether a root or logarithm is taken of something whose sign does not follow from those of its names."""
    for node in nodes(tree):
        if node.operator in ROOTS and not is_monomial(node.operands[0]):
            return True
        if node.operator == "^" and not is_whole(node.operands[1]) and not is_monomial(node.operands[0]):
            return True
    return False


def has_folds(tree: Tree) -> bool:
    return any(node.operator in FOLDS for node in nodes(tree))


def steps(tree: Tree) -> list[Node]:
    """Return the parts of a tree that are meant for whole numbers or change in steps."""
    return [node for node in nodes(tree) if _is_step(node)]


def _is_step(node: Node) -> bool:
    if node.operator in ("floor", "ceil", "mod", "gcd", "lcm", "!!"):
        return True
    if node.operator in ("sum", "product"):
        return any(free_names(bound) for bound in node.operands[2:])
    return _alternates(node) or _turns(node) is not None


def counting_names(tree: Tree) -> set[str]:
    """Return the names that count: those in steps, factorials and binomials that have a letter for it."""
    found: set[str] = set()
    for node in nodes(tree):
        if _is_step(node):
            parts = node.operands[2:] if node.operator in ("sum", "product") else node.operands
        elif node.operator in ("!", "binomial"):
            parts = node.operands
        else:
            continue
        for part in parts:
            found |= {name for name in free_names(part) if name.lstrip("\\")[:1] in COUNTING}
    return found


def period(tree: Tree) -> int | None:
    """Return a number such that all steps of a tree depend only on the remainders of whole numbers by it, up to a
    polynomial; None if that is not known.
    """
    common = 1
    for node in steps(tree):
        own = _period_of(node)
        if own is None:
            return None
        common = math.lcm(common, own)
        if common > _LARGEST_PERIOD:
            return None
    return common


def _period_of(node: Node) -> int | None:
    factor, inside = 1, node.operands[0]
    if node.operator == "mod":
        modulus = node.operands[1]
        if not isinstance(modulus, Number) or modulus.value.denominator != 1 or modulus.value <= 0:
            return None
        factor = modulus.value.numerator
    elif _alternates(node):
        factor, inside = (4 if node.operands[0] == Name("i") else 2), node.operands[1]
    elif node.operator not in ("floor", "ceil"):
        turns = _turns(node)
        if turns is None:
            return None
        factor, inside = 2, turns
    below = denominator(inside)
    return None if below is None or below * factor > _LARGEST_PERIOD else below * factor


def _alternates(node: Node) -> bool:
    """Return whether a node is a power like (-1)^n or i^n."""
    if node.operator != "^" or free_names(node.operands[0]) or not free_names(node.operands[1]):
        return False
    base = node.operands[0]
    is_positive = isinstance(base, Number) and base.value > 0
    return not is_positive and base not in (Constant("pi"), Name("e"))


def _turns(node: Node) -> Tree | None:
    """Return the factor of pi in a sine like \\sin(n\\pi/2), if it is a polynomial of counting names."""
    if node.operator not in _TRIGONOMETRIC:
        return None
    factor = pi_multiple(node.operands[0])
    return factor if factor is not None and denominator(factor) is not None else None


def denominator(tree: Tree) -> int | None:
    """Return a common denominator of the coefficients of a polynomial of counting names; None for anything else."""
    if isinstance(tree, Number):
        return tree.value.denominator
    if isinstance(tree, Name):
        return 1 if tree.name[:1] in COUNTING and tree.name != "i" else None
    if not isinstance(tree, Node):
        return None
    if tree.operator == "/":
        above, below = denominator(tree.operands[0]), _constant(tree.operands[1])
        return above * abs(below.numerator) if above and below else None
    if tree.operator == "^":
        base, exponent = denominator(tree.operands[0]), tree.operands[1]
        if base is None or not isinstance(exponent, Number) or exponent.value not in range(10):
            return None
        return int(base ** int(exponent.value))
    if tree.operator not in ("+", "-", "*"):
        return None
    common = 1
    for operand in tree.operands:
        own = denominator(operand)
        if own is None or common > _LARGEST_PERIOD:
            return None
        common = common * own if tree.operator == "*" else math.lcm(common, own)
    return common


def _constant(tree: Tree) -> Fraction | None:
    if isinstance(tree, Node) and tree.operator == "-" and len(tree.operands) == 1:
        inside = _constant(tree.operands[0])
        return None if inside is None else -inside
    return tree.value if isinstance(tree, Number) else None
