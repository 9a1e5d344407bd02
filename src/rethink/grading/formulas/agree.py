"""Whether two formulas are equal: the same values wherever they are compared.

Equal trees are equal. Otherwise values decide, at points that follow from a hash of both formulas and a seed (`points`),
exactly where they are rational, and else with so many digits that a difference could not hide (`arithmetic`). Smooth
formulas that agree at random points are equal everywhere. What is not smooth needs more: roots and absolute values must
agree for negative values too, and floors, sums and powers of -1 for each class of whole numbers. Where that cannot be
shown, the pair is not judged.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rethink.grading.formulas.arithmetic import Budget, NotJudged
from rethink.grading.formulas.pairs import Pair
from rethink.grading.formulas.points import Points
from rethink.grading.formulas.proofs import equal
from rethink.grading.formulas.readings import factors, fold_constants, has_bare_log, multiplied, substituted, written
from rethink.grading.formulas.structure import free_names, infinite, words
from rethink.grading.formulas.tree import Node, Number, Tree


def agree(a: Tree, b: Tree, seed: str = "") -> bool:
    """Return whether a formula, that is no list or relation, equals the second one, of the gold answer. Raise NotJudged if
    it cannot be told.
    """
    if a == b:
        return True
    if words(a) != words(b):  # "not 0" is no number times 0
        return False
    try:
        return _agree(a, b, seed)
    except RecursionError as err:
        raise NotJudged("nested too deeply to compare") from err


def equal_equations(left: Tree, right: Tree, wanted_left: Tree, wanted_right: Tree, seed: str = "") -> bool:
    """Return whether the sides of two equations are equal, or left minus right of one is a multiple of the other's."""
    if left == wanted_left and right == wanted_right:
        return True
    first, second = _minus(left, right), _minus(wanted_left, wanted_right)
    before_brackets, _ = factors(first, second)
    first, second = multiplied(first, before_brackets), multiplied(second, before_brackets)
    if not free_names(first) or free_names(first) != free_names(second):
        return agree(left, wanted_left, seed) and agree(right, wanted_right, seed)
    return _are_multiples(first, second, seed)


def _minus(a: Tree, b: Tree) -> Tree:
    return Node("+", (a, Node("-", (b,))))


def _are_multiples(a: Tree, b: Tree, seed: str) -> bool:
    """Return whether one formula is a constant, that is not zero, times the other."""
    names = sorted(free_names(a) | free_names(b))
    point = Points(names, repr(a), repr(b), seed).positive(1)
    here, there = substituted(a, point), substituted(b, point)
    zero = Number(Fraction(0))
    if agree(here, zero, seed) or agree(there, zero, seed):
        return False
    return agree(Node("*", (a, there)), Node("*", (b, here)), seed)


def _agree(a: Tree, b: Tree, seed: str) -> bool:
    signs = infinite(a), infinite(b)
    if any(signs):
        return signs[0] == signs[1]
    a, b = fold_constants(a, b)
    digits = written(a) + written(b)
    names = sorted(free_names(a) | free_names(b))
    sure, unsure = factors(a, b)
    a, b = multiplied(a, sure), multiplied(b, sure)
    pair = Pair(a, b, Points(names, repr(a), repr(b), seed), Budget(), digits)
    if _with_any_base(pair):
        return True
    if unsure and _with_any_base(replace(pair, a=multiplied(a, unsure), b=multiplied(b, unsure))):
        raise NotJudged("a name before parentheses may be a function or a factor")
    return False


def _with_any_base(pair: Pair) -> bool:
    """Compare; logarithms without a base must agree whatever the base is."""
    if equal(pair):
        return True
    if has_bare_log(pair.a) or has_bare_log(pair.b):
        for scale in ("e", "10"):
            if equal(replace(pair, log_scale=scale)):
                raise NotJudged("a logarithm without a base")
    return False
