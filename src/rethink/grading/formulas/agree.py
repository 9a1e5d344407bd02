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

from rethink.grading.formulas.arithmetic import TOO_LARGE, Budget
from rethink.grading.formulas.complex_names import refuse_if_real_only
from rethink.grading.formulas.points import Pair, Point, Points
from rethink.grading.formulas.proofs import equal
from rethink.grading.formulas.readings import (
    factors,
    fold_constants,
    has_bare_log,
    multiplied,
    substituted,
    with_swapped_constants,
    written,
)
from rethink.grading.formulas.steps import signed_names
from rethink.grading.formulas.structure import free_names, infinite, words
from rethink.grading.formulas.tree import Name, Node, Number, Tree, minus
from rethink.grading.formulas.verdicts import NotJudged

_MOST_MAGNITUDES = 6
_STEP = Fraction(7, 3)


def agree(a: Tree, b: Tree, seed: str = "", whole: Budget | None = None) -> bool:
    """Return whether a formula equals the gold answer's; neither is a list or a relation. Raise NotJudged if that cannot be
    told, or if the work for the whole answer is used up.
    """
    return _agree_within(a, b, seed, Budget(whole=whole))


def _agree_within(a: Tree, b: Tree, seed: str, budget: Budget) -> bool:
    if a == b:
        return True
    if words(a) != words(b):  # "not 0" is no number times 0
        return False
    try:
        return _agree(a, b, seed, budget)
    except RecursionError as err:
        raise NotJudged("nested too deeply to compare") from err
    except OverflowError as err:
        raise NotJudged(TOO_LARGE) from err


def equal_equations(left: Tree, right: Tree, wanted_left: Tree, wanted_right: Tree, seed: str = "") -> bool:
    """Return whether the sides of two equations are equal, or left minus right of one is a multiple of the other's."""
    budget = Budget()
    first, second = minus(left, right), minus(wanted_left, wanted_right)
    before_brackets, _ = factors(first, second)
    first, second = multiplied(first, before_brackets), multiplied(second, before_brackets)
    if not _varies(first) or free_names(first) != free_names(second):
        return _agree_within(left, wanted_left, seed, budget) and _agree_within(right, wanted_right, seed, budget)
    return _are_multiples(first, second, seed, budget)


def _varies(tree: Tree) -> bool:
    """Return whether a formula has variables, and not only values of functions such as f(0)."""
    return substituted(tree, {name: Fraction(1) for name in free_names(tree)}) != tree


def _are_multiples(a: Tree, b: Tree, seed: str, budget: Budget) -> bool:
    """Return whether one formula is a constant, that is not zero, times the other, perhaps times powers of magnitudes."""
    names = sorted(free_names(a) | free_names(b))
    point = Points(names, repr(a), repr(b), seed).positive(1)
    here, there = substituted(a, point), substituted(b, point)
    zero = Number(Fraction(0))
    if _agree_within(here, zero, seed, budget) or _agree_within(there, zero, seed, budget):
        return False
    if _agree_within(Node("*", (a, there)), Node("*", (b, here)), seed, budget):
        return True
    powers = _powers_between(a, b, point, seed, budget)
    if not powers:
        return False
    b = Node("*", (b, *powers))
    return _agree_within(Node("*", (a, substituted(b, point))), Node("*", (b, here)), seed, budget)


def _powers_between(a: Tree, b: Tree, point: Point, seed: str, budget: Budget) -> list[Tree]:
    """Return the powers of magnitudes, as the m in m\\dot{v}=F and \\dot{v}=F/m, by which two formulas differ."""
    magnitudes = sorted(set(point) - signed_names(list(point)))
    powers: list[Tree] = []
    here, there = substituted(a, point), substituted(b, point)
    for name in magnitudes[:_MOST_MAGNITUDES]:
        other = {**point, name: point[name] * _STEP}
        left = Node("*", (substituted(a, other), there))
        right = Node("*", (substituted(b, other), here))
        for power in (1, -1, 2, -2):
            if _agree_within(left, Node("*", (right, Number(_STEP**power))), seed, budget):
                powers.append(Node("^", (Name(name), Number(Fraction(power)))))
                break
    return powers


def _agree(a: Tree, b: Tree, seed: str, budget: Budget) -> bool:
    signs = infinite(a), infinite(b)
    if any(signs):
        return signs[0] == signs[1]
    a, b = fold_constants(a, b)
    digits = written(a) + written(b)
    names = sorted(free_names(a) | free_names(b))
    sure, unsure = factors(a, b)
    a, b = multiplied(a, sure), multiplied(b, sure)
    pair = Pair(a, b, Points(names, repr(a), repr(b), seed), budget, digits)
    if _with_any_base(pair):
        refuse_if_real_only(pair)
        return True
    if unsure and _with_any_base(replace(pair, a=multiplied(a, unsure), b=multiplied(b, unsure))):
        raise NotJudged("a name before parentheses may be a function or a factor")
    swapped = with_swapped_constants(a)
    return swapped is not None and with_swapped_constants(b) is not None and _with_any_base(replace(pair, a=swapped))


def _with_any_base(pair: Pair) -> bool:
    """Compare; logarithms without a base must agree whatever the base is."""
    if equal(pair):
        return True
    if has_bare_log(pair.a) or has_bare_log(pair.b):
        for scale in ("e", "10"):
            if equal(replace(pair, log_scale=scale)):
                raise NotJudged("a logarithm without a base")
    return False
