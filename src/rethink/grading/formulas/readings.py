"""How the names of two formulas are read: as factors or functions, and c and C as the same constant."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from rethink.grading.formulas.structure import BINDING, callee_name, free_names
from rethink.grading.formulas.tree import Measured, Name, Node, Number, Tree, put, walk, with_parts
from rethink.grading.formulas.verdicts import NotJudged

FUNCTION_LETTERS = frozenset((*"fghFGHPE", "\\phi", "\\psi", "\\Phi", "\\Psi", "\\Gamma", "\\zeta"))
"""Names that stay functions even where they also occur without parentheses."""
_FACTOR_LETTERS = frozenset("ghEF")
"""Names of functions that are factors if the other formula has them without parentheses only: mg(1 - \\cos t)."""
_MOST_PARTS = 2_000


def substituted(tree: Tree, point: Mapping[str, Fraction | Tree]) -> Tree:
    """Return a tree with numbers (or other trees) for names, except those of functions, in derivatives and of the variables
    of sums."""
    if isinstance(tree, Name):
        value = point.get(tree.name, tree)
        return Number(value) if isinstance(value, Fraction) else value
    if not isinstance(tree, Node):
        return with_parts(tree, lambda part: substituted(part, point))
    if tree.operator in ("derivative", "partial"):
        return tree
    kept = tree.operands[:1] if tree.operator == "apply" else ()
    if tree.operator in BINDING and isinstance(tree.operands[1], Name):
        point = {name: value for name, value in point.items() if name != tree.operands[1].name}
    return Node(tree.operator, (*kept, *[substituted(part, point) for part in tree.operands[len(kept) :]]))


def multiplied(tree: Tree, factors: set[str]) -> Tree:
    """Return a tree with products for factors in front of parentheses: x^2(y+1) and n(n-1)!, where ! belongs to n-1."""
    changed = with_parts(tree, lambda part: multiplied(part, factors))
    if not isinstance(tree, Node) or not isinstance(changed, Node):
        return changed
    parts = changed.operands
    inner = tree.operands[0] if tree.operands else tree
    if _is_product(tree, factors):
        return Node("*", parts)
    if tree.operator in ("^", "!", "!!") and _is_product(inner, factors) and isinstance(parts[0], Node):
        factor, argument = parts[0].operands
        return Node("*", (factor, Node(tree.operator, (argument, *parts[1:]))))
    return changed


def _is_product(tree: Tree, factors: set[str]) -> bool:
    if not isinstance(tree, Node) or tree.operator != "apply" or len(tree.operands) != 2:
        return False
    return callee_name(tree) in factors


def fold_constants(a: Tree, b: Tree) -> tuple[Tree, Tree]:
    """Return both with c for C, the constant of integration, and c_1 for C_1, unless both occur in one."""
    for constant in ("C", "C_{1}", "C_{2}", "C_{3}", "C_{4}"):
        large, small = Name(constant), Name(constant.lower())
        ours, theirs = free_names(a), free_names(b)
        both = {large.name, small.name}
        if both <= ours | theirs and not both <= ours and not both <= theirs:
            a, b = put(a, large, small), put(b, large, small)
    return a, b


def with_swapped_constants(tree: Tree) -> Tree | None:
    """Return C_1 cos t + C_2 sin t with C_1 and C_2 swapped; None unless they are arbitrary constants: factors of two
    terms of a sum, in which there is one other variable.
    """
    for first, second in ((Name("C_{1}"), Name("C_{2}")), (Name("c_{1}"), Name("c_{2}"))):
        if not isinstance(tree, Node) or tree.operator != "+" or len(free_names(tree)) != 3:
            continue
        if _is_factor(first, tree) and _is_factor(second, tree):
            return put(put(put(tree, first, Name("")), second, first), Name(""), second)
    return None


def _is_factor(name: Name, total: Node) -> bool:
    """Return whether a name occurs once, as a factor of a term."""
    factors = [
        part for term in total.operands if isinstance(term, Node) and term.operator == "*" for part in term.operands
    ]
    return factors.count(name) == list(walk(total)).count(name) == 1


def written(tree: Tree) -> float:
    """Return how many digits a formula has."""
    digits, parts = 0.0, 0
    for part in walk(tree):
        parts += 1
        if isinstance(part, Number):
            digits += (part.value.numerator.bit_length() + part.value.denominator.bit_length()) / 3.3
        elif isinstance(part, Measured):
            digits += (part.unit.factor.numerator.bit_length() + part.unit.factor.denominator.bit_length()) / 3.3
    if parts > _MOST_PARTS:
        raise NotJudged("too long to compare")
    return digits


def has_bare_log(tree: Tree) -> bool:
    """Return whether a tree has a logarithm without a base."""
    return any(isinstance(part, Node) and part.operator == "log" and len(part.operands) == 1 for part in walk(tree))


def factors(a: Tree, b: Tree) -> tuple[set[str], set[str]]:
    """Return the names in front of parentheses that are factors, and those that may be."""
    called: set[str] = set()
    bare: set[str] = set()
    only_bare: set[str] = set()
    for tree in (a, b):
        called_here: set[str] = set()
        bare_here: set[str] = set()
        _collect(tree, called_here, bare_here)
        called |= called_here
        bare |= bare_here
        only_bare |= (bare_here - called_here) & _FACTOR_LETTERS
    sure = {name for name in called & bare if name not in FUNCTION_LETTERS or name in only_bare}
    unsure = {name for name in called if (name in bare) == (name in FUNCTION_LETTERS)}
    return sure, unsure


def _collect(tree: Tree, called: set[str], bare: set[str]) -> None:
    """Add names in front of one argument to called, all others to bare."""
    if isinstance(tree, Name):
        bare.add(tree.name)
    elif isinstance(tree, Measured):
        _collect(tree.value, called, bare)
    elif isinstance(tree, Node):
        operands = tree.operands
        if tree.operator == "apply":
            if callee_name(tree) and len(operands) == 2:
                called.add(callee_name(tree))
            operands = operands[1:]
        for operand in operands:
            _collect(operand, called, bare)
