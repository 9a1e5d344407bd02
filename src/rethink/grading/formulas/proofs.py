"""How it is shown that two formulas are equal for all values of their names, or that they differ.

Smooth formulas that agree at random points are equal everywhere. Roots, logarithms and absolute values may agree on one
side of zero only: so signs vary, both sides of each absolute value must be seen, and squares under roots count as absolute
values. Where this proves nothing, such parts may be the same in both formulas: then they are equal with any function in
their place. Floors, sums and powers of -1 are shown to be equal for each class of whole numbers; trying whole numbers alone
can only show that formulas differ.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rethink.grading.formulas import steps
from rethink.grading.formulas.arithmetic import Budget
from rethink.grading.formulas.points import Pair
from rethink.grading.formulas.readings import substituted
from rethink.grading.formulas.structure import free_names, is_monomial
from rethink.grading.formulas.tree import Node, Tree
from rethink.grading.formulas.verdicts import NotJudged

NOT_WORKED_OUT = "a sum, integral or limit that is not worked out"
POSITIVE_ONLY = "equal for positive values only"
SOME_ONLY = "equal for some values only"
_POINTS = 3
_MOST_CLASSES = 64
_MOST_DIGITS_OF_OTHER_SIZES = 1_000
_SMOOTH: frozenset[str] = frozenset()


def equal(pair: Pair) -> bool:
    """Return whether two formulas are equal, wherever both have values. Raise NotJudged if that cannot be told."""
    if not pair.points.names:
        return _equal_numbers(pair)
    trees = (pair.a, pair.b)
    is_stepped = any(steps.steps(tree) for tree in trees)
    is_folded = any(steps.has_folds(tree) for tree in trees)
    if (is_stepped or is_folded) and _is_proved(pair, steps.STEPS | steps.FOLDS):
        return True
    if not is_stepped:
        verdict = _equal_everywhere(pair, _SMOOTH)
        if verdict is None:
            raise NotJudged(NOT_WORKED_OUT)
        if not verdict or _all_sides_seen(pair):
            return verdict
    if _is_proved(replace(pair, budget=Budget(whole=pair.budget.whole)), steps.STEPS | steps.BRANCHES):
        return True
    if is_stepped:
        return _equal_for_whole_numbers(pair)
    raise NotJudged(SOME_ONLY)


def _equal_numbers(pair: Pair) -> bool:
    found = pair.at({})
    if not found.values[1]:
        raise NotJudged("the gold answer has no finite value")
    if not found.equal and found.unsure and all(found.values):
        raise NotJudged(NOT_WORKED_OUT)
    return found.equal


def _is_proved(pair: Pair, stand_ins: frozenset[str]) -> bool:
    """Return whether two formulas are equal with any functions in place of some operators."""
    try:
        return _equal_everywhere(pair, stand_ins) is True and _all_sides_seen(pair)
    except NotJudged:
        return False


def _equal_everywhere(pair: Pair, stand_ins: frozenset[str]) -> bool | None:
    """Return whether two formulas agree at random points, for all signs where these matter; None if a difference proves
    nothing.
    """
    pair.sides.clear()
    pair.is_doubtful = False
    has_branches = any(steps.has_branches(tree, stand_ins) for tree in (pair.a, pair.b))
    wants_real = has_branches and not pair.is_complex
    compared, trouble = 0, ""
    complex_ones, is_equal, is_unsure = 0, True, False
    for turn in range(12):
        try:
            found = pair.at(pair.points.positive(turn), stand_ins)
        except NotJudged as err:
            trouble = str(err)
            continue
        if not any(found.values):
            continue
        if wants_real and not all(found.real):
            complex_ones += 1
            is_equal, is_unsure = is_equal and found.equal, is_unsure or found.unsure
            continue
        if not found.equal:
            return None if found.unsure else False
        pair.accept(found)
        pair.is_doubtful = pair.is_doubtful or found.is_doubtful
        compared += 1
        if compared == _POINTS:
            break
    if compared < _POINTS:
        if trouble or complex_ones < _POINTS:
            raise NotJudged(trouble or "no finite values to compare")
        if not is_equal:
            return None if is_unsure else False
    if has_branches:
        compared += _refuse_if_signs_matter(pair, stand_ins)
        pair.is_doubtful = pair.is_doubtful or compared == 0
    return True


def _refuse_if_signs_matter(pair: Pair, stand_ins: frozenset[str]) -> int:
    """Raise NotJudged if two formulas that agree for positive values do not for others. Return for how many of these all
    parts are real.
    """
    compared = 0
    is_single = len(pair.points.names) == 1
    is_folded = steps.has_folds(pair.a) or steps.has_folds(pair.b)
    signed = set(pair.points.names) if is_single or is_folded else steps.signed_names(pair.points.names)
    is_smooth = [not steps.has_branches(tree) for tree in (pair.a, pair.b)]
    for point in pair.points.of_other_signs(signed):
        try:
            found = pair.at(point, stand_ins)
        except NotJudged:
            continue
        if found.equal:
            pair.accept(found)
            if all(found.real):
                compared += 1
                pair.is_doubtful = pair.is_doubtful or found.is_doubtful
            continue
        # sqrt(g) sqrt(h) may stand for sqrt(gh), whose domain is larger, but not for a formula without roots.
        is_larger = any(real and (is_single or smooth) for real, smooth in zip(found.real, is_smooth, strict=True))
        if pair.is_complex or all(found.real) or is_larger:
            raise NotJudged(POSITIVE_ONLY)
    is_large_seen = False
    for point, is_large in pair.points.of_other_sizes(pair.largest, signed):
        try:
            found = pair.at(point, stand_ins, most_digits=_MOST_DIGITS_OF_OTHER_SIZES)
        except NotJudged:
            continue
        if found.equal:
            pair.accept(found)
            is_large_seen = is_large_seen or (is_large and all(found.values))
        elif pair.is_complex or all(found.real):
            raise NotJudged(SOME_ONLY)
    if not is_large_seen:
        pair.is_doubtful = pair.is_doubtful or any(map(steps.has_mixed_roots, (pair.a, pair.b)))
    return compared


def _all_sides_seen(pair: Pair) -> bool:
    """Return whether every absolute value was compared with a positive and a negative inside, alone or for all signs of
    all names.
    """
    if pair.is_doubtful:
        return False
    parts = [part for part in pair.sides if free_names(part)]
    if all(map(is_monomial, parts)):
        return True
    return all(pair.sides[part] == {1, -1} and _are_multiples(pair, part, parts[0]) for part in parts)


def _are_multiples(pair: Pair, a: Tree, b: Tree) -> bool:
    """Return whether one tree is a constant times the other."""
    if a == b:
        return True
    point = pair.points.positive(0)
    first, second = Node("*", (a, substituted(b, point))), Node("*", (b, substituted(a, point)))
    products = replace(pair, a=first, b=second, sides={})
    return all(products.at(pair.points.positive(turn)).equal for turn in range(_POINTS))


def _equal_for_whole_numbers(pair: Pair) -> bool:
    """Compare formulas with floors, powers of -1 and the like: for each class of remainders if that decides, otherwise at
    whole numbers, which can only show that they differ.
    """
    ours, theirs = steps.counting_names(pair.a), steps.counting_names(pair.b)
    counting = (ours | theirs) & set(pair.points.names)
    if counting and ours == theirs and _equal_for_each_class(pair, counting):
        return True
    points = pair.points.whole(counting)
    names = set(pair.points.names)
    if not counting:
        points += pair.points.of_other_signs(names)
        points += [point for point, _ in pair.points.of_other_sizes(pair.largest, names)]
    compared = 0
    for point in points:
        try:
            found = pair.at(point)
        except NotJudged:
            continue
        if not all(found.values) or not (pair.is_complex or all(found.real)):
            continue
        compared += 1
        if not found.equal and not found.unsure:
            return False
    raise NotJudged(SOME_ONLY if compared else "no whole numbers to compare")


def _equal_for_each_class(pair: Pair, counting: set[str]) -> bool:
    if any(steps.has_branches(tree) for tree in (pair.a, pair.b)):
        return False
    first, second = steps.period(pair.a), steps.period(pair.b)
    if first is None or second is None or math.lcm(first, second) ** len(counting) > _MOST_CLASSES:
        return False
    for turn, classes in enumerate(pair.points.classes(counting, math.lcm(first, second))):
        found = pair.at(pair.points.positive(turn), classes=classes)
        if not found.equal or found.unsure:
            return False
    return True
