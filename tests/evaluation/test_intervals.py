"""Rates, differences and means with their intervals, by hand and against scipy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from scipy.stats import binomtest, t

from rethink.evaluation.intervals import (
    Difference,
    Estimate,
    Outcomes,
    _quantile,
    difference,
    macro_average,
    macro_difference,
    paired_difference,
    rate,
    relative_difference,
    wilson_interval,
)


@pytest.mark.parametrize(("k", "n"), [(0, 13), (13, 13), (5, 11), (613, 1000)])
def test_wilson_against_scipy(k: int, n: int) -> None:
    """Guards against a slip in the formula, and a cluster correction where each problem has one answer."""
    theirs = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    found = rate([(f"p{i}", i < k) for i in range(n)])
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson_interval(k / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_interval_excludes_its_rate() -> None:
    """Guards against a rate of 0 or 1 outside its interval, by a last bit, at any number of answers."""
    for n in range(1, 400):
        assert (wilson_interval(0.0, n)[0], wilson_interval(1.0, n)[1]) == (0.0, 1.0)


def test_effective_sample_size_by_hand() -> None:
    """Guards against a wrong cluster variance. Three problems, two answers each: 2, 1 and 0 right.

    p = 1/2; residual sums 1, 0, -1; variance of the mean = (1 + 0 + 1) / 6^2 * 3/2 = 1/12; n = (1/4) / (1/12) = 3.
    Student's quantile has 2 degrees of freedom: z = 4.3027.
    """
    outcomes = [("a", True), ("a", True), ("b", True), ("b", False), ("c", False), ("c", False)]
    found = rate(outcomes)
    half = 4.302653 / (1 + 4.302653**2 / 3) * math.sqrt(1 / 12 + 4.302653**2 / 36)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_little_spread_counts_for_little_by_hand() -> None:
    """Guards against the certainty of many answers to few problems: 2 of 5 * 12 answers right, in two of the problems.

    p = 1/30; residuals 0.6 (twice), -0.4 (thrice): variance = 1.2 / 60^2 * 5/4 = 1/2400, n = 77.3, at most 60.
    Of the way from 1/60 to 1/5 the share exp(-5 * 29/900) = 0.8512 is gone back: 1/n = 0.1727; 4 degrees of freedom.
    """
    outcomes = [(f"p{i}", (i, j) in ((0, 0), (1, 0))) for i in range(5) for j in range(12)]
    inverse, p, z2 = 0.172722, 1 / 30, 2.776445**2
    half = math.sqrt(z2 * (p * (1 - p) * inverse + z2 * inverse**2 / 4))
    found = rate(outcomes)
    assert found.high == pytest.approx((p + z2 * inverse / 2 + half) / (1 + z2 * inverse), abs=1e-5)


@pytest.mark.parametrize(("n_right", "n_each"), [(1, 3), (2, 7), (0, 5), (5, 5)])
def test_problems_without_any_spread_count_once(n_right: int, n_each: int) -> None:
    """Sums of residuals that are zero but for rounding once counted as a tiny variance."""
    outcomes = [(f"p{i}", j < n_right) for i in range(5) for j in range(n_each)]
    found = rate(outcomes)
    assert (found.low, found.high) == pytest.approx(wilson_interval(n_right / n_each, 5), abs=1e-12)


def test_no_answers_give_nan() -> None:
    """Guards against 0% where nothing was measured."""
    found = rate([])
    assert [math.isnan(x) for x in (found.value, found.low, found.high)] == [True] * 3
    assert (found.n, found.percent()) == (0, "undefined")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans() | st.floats(0, 1)), min_size=1))
def test_intervals_hold_their_rate(outcomes: list[tuple[str, float]]) -> None:
    """Guards against NaN and against intervals outside 0 to 1 for any little data set."""
    found = rate(outcomes)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.low < found.high


def test_shares_count_like_their_answers() -> None:
    """Guards against a value between 0 and 1 taken for one right-or-wrong answer: 3, 17, 29, ... of 64 right."""
    shares = [(7 * i**2 + 3) % 65 for i in range(53)]
    answers = [(f"p{i}", j < share) for i, share in enumerate(shares) for j in range(64)]
    values = [(f"p{i}", share / 64) for i, share in enumerate(shares)]
    by_answer, by_value = rate(answers), rate(values)
    assert (by_value.low, by_value.high) == pytest.approx((by_answer.low, by_answer.high), abs=1e-9)
    assert (by_value.n, by_answer.n) == (53, 53 * 64)


def test_students_quantile_against_scipy() -> None:
    """Guards against a one-sided quantile, and against another level."""
    degrees = np.array([1, 2, 10, 120, 10**9])
    assert _quantile(degrees, 0.95) == pytest.approx(t.ppf(0.975, degrees), rel=1e-4)


def test_a_difference_by_hand() -> None:
    """Guards against an interval that ignores the pairing. Seven problems with one answer each: 3 right on both sides,
    2 only on the first, 1 only on the second, 1 on neither: rates 5/7 and 4/7.

    Correlation: (3 * 1 - 2 * 1) / sqrt(5 * 2 * 4 * 3) = 0.0913. Wilson's limits with Student's t of 6 degrees. The p-value
    is that of the interval with the limit 0.
    """
    ours = [(f"p{i}", i < 5) for i in range(7)]
    theirs = [(f"p{i}", i < 3 or i == 5) for i in range(7)]

    def by_hand(tail: float) -> tuple[float, float]:
        z2, limits = t.ppf(1 - tail, 6) ** 2, []
        for p in (5 / 7, 4 / 7):
            half = math.sqrt(z2 * (p * (1 - p) / 7 + z2 / 196))
            limits.append([(p + z2 / 14 + sign * half) / (1 + z2 / 7) for sign in (-1, 1)])
        (low, high), (low_2, high_2) = limits
        c = 1 / math.sqrt(120)
        a, b = 5 / 7 - low, high_2 - 4 / 7
        e, f = high - 5 / 7, 4 / 7 - low_2
        return 1 / 7 - math.sqrt(a * a - 2 * c * a * b + b * b), 1 / 7 + math.sqrt(e * e - 2 * c * e * f + f * f)

    found = difference(ours, theirs)
    assert found.value == pytest.approx(1 / 7)
    assert found.n == 7
    assert (found.low, found.high) == pytest.approx(by_hand(0.025), abs=1e-12)
    assert found.p == pytest.approx(2 * brentq(lambda tail: by_hand(tail)[0], 0.01, 0.499), abs=1e-6)


def damaged(problems: str, *, right: str) -> Outcomes:
    """Return the outcomes of a damage rate: one for each right first answer, 1 if it was damaged."""
    return [(problem, problem in problems) for problem in right]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # One damaged answer. The problems with right first answers differ, in the last row completely.
        (damaged("a", right="abcdefghijklmnopqrst"), damaged("", right="abcdefghijklmnopqrst")),
        (damaged("a", right="a"), damaged("", right="bcdefghijklmnopqrst")),
        (damaged("a", right="ab"), damaged("", right="abcdefghijklmnopqrst")),
        (damaged("a", right="abcdefghij"), damaged("", right="klmnopqrst")),
    ],
)
def test_one_damaged_answer_is_no_evidence(ours: Outcomes, theirs: Outcomes) -> None:
    """A permutation test that divided by a standard error of 0 said p = 0.01, beside an interval that holds 0."""
    found = difference(ours, theirs)
    assert found.p > 0.05
    assert found.low < 0 < found.high


TABLES = st.lists(st.tuples(st.integers(0, 19), st.booleans(), st.integers(0, 2)), min_size=4, max_size=60)


@given(TABLES, TABLES)
def test_interval_and_p_value_never_contradict_each_other(
    ours: list[tuple[int, bool, int]], theirs: list[tuple[int, bool, int]]
) -> None:
    """Guards against two procedures. Outcomes of 0, 0.5 and 1 are shares, such as those of tied votes."""
    pair = [[(f"p{i}", x * (1 - share / 2)) for i, x, share in side] for side in (ours, theirs)]
    binary = [[(f"p{i}", float(x)) for i, x, _ in side] for side in (ours, theirs)]
    found: list[Difference] = [difference(*pair), difference(*binary), macro_difference([tuple(pair), tuple(binary)])]  # type: ignore[list-item]
    for gap in found:
        assert math.isnan(gap.p) == math.isnan(gap.low)
        assert math.isnan(gap.p) or (gap.p < 0.05) == (not gap.low <= 0 <= gap.high)


def test_a_difference_is_of_ratios_of_sums() -> None:
    """Guards against the mean of the problems' gaps: (2 + 0 + 1) / 4 less (1 + 0 + 0) / 5, with c only on the first
    side and d only on the second."""
    ours = [("a", True), ("a", True), ("b", False), ("c", True)]
    theirs = [("d", False), ("b", False), ("a", False), ("a", True), ("d", False)]
    found = difference(ours, theirs)
    assert found.value == pytest.approx(3 / 4 - 1 / 5)
    assert found.n == 4
    with pytest.raises(ValueError, match="same problems"):
        paired_difference(ours, theirs)
    assert paired_difference(ours[:3], theirs[1:4]) == difference(ours[:3], theirs[1:4])


def test_undefined_differences() -> None:
    """Guards against a made-up width for one problem, and against 0 where a side is empty."""
    one = difference([("a", True)], [("a", False)])
    assert (one.value, one.n) == (1.0, 1)
    assert [math.isnan(x) for x in (one.low, one.high, one.p)] == [True] * 3
    for empty in (difference([], [("a", True)]), difference([("a", True)], []), difference([], [])):
        assert [math.isnan(x) for x in (empty.value, empty.low, empty.high, empty.p)] == [True] * 4
        assert (empty.n, empty.percent()) == (0, "undefined")


OUTCOMES = st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1)


@given(OUTCOMES, OUTCOMES, st.randoms(use_true_random=False))
def test_a_difference_changes_its_sign_and_nothing_else(
    ours: list[tuple[str, bool]], theirs: list[tuple[str, bool]], random: Random
) -> None:
    """Guards against an order of problems or sides that matters, and against limits that do not hold the value."""
    found = difference(ours, theirs)
    back = difference(random.sample(theirs, len(theirs)), random.sample(ours, len(ours)))
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low), nan_ok=True)
    assert found.p == pytest.approx(back.p, abs=1e-9, nan_ok=True)
    assert found.n == 1 or 0 < found.p <= 1
    assert found.n == 1 or -1 <= found.low <= found.value + 1e-12
    assert found.n == 1 or found.value - 1e-12 <= found.high <= 1


def test_equal_sides_have_no_difference() -> None:
    """Guards against certainty: on 53 problems alike, some 6% may still differ (rule of three)."""
    outcomes = [(f"p{i}", i % 2 == 0) for i in range(53)]
    found = difference(outcomes, outcomes)
    assert (found.value, found.p) == (0.0, 1.0)
    assert 0.03 < found.high < 0.07
    assert found.low == pytest.approx(-found.high, abs=2e-3)
    sevenths = [(f"p{i}", x / 7) for i, x in enumerate((0, 1, 1, 1, 6, 6, 4, 0, 0, 2, 3))]
    assert difference(sevenths * 3, sevenths).p == pytest.approx(1.0)  # and not 1/1024, for a gap of 1e-17


def test_p_values_near_those_of_exact_tests() -> None:
    """Guards against one-sided p-values: the sign test, and all of twenty problems against none."""
    names = [f"p{i}" for i in range(20)]
    found = difference([(x, i < 15) for i, x in enumerate(names)], [(x, i >= 15) for i, x in enumerate(names)])
    assert found.p == pytest.approx(binomtest(15, 20).pvalue, abs=0.03)
    all_for_one = difference([(x, True) for x in names], [(x, False) for x in names])
    assert 0 < all_for_one.p < 1e-3


def outcomes_of(values_P: Iterable[float]) -> list[tuple[str, float]]:
    return [(f"p{i}", float(x)) for i, x in enumerate(values_P)]


def test_a_relative_difference_against_an_independent_bootstrap() -> None:
    """Guards against limits of the gap in points, or of the first rate over the second."""
    n, draws = 211, np.random.default_rng(2)
    ours_P = (draws.random(n) < 0.5).astype(float)
    theirs_P = np.where(draws.random(n) < 0.6, ours_P, draws.random(n) < 0.3)
    found = relative_difference(outcomes_of(ours_P), outcomes_of(theirs_P))
    assert found.value == pytest.approx((ours_P.mean() - theirs_P.mean()) / theirs_P.mean())
    rows = draws.integers(0, n, (20_011, n))
    ratios = ours_P[rows].mean(axis=1) / theirs_P[rows].mean(axis=1) - 1
    tail = stats.norm.cdf(stats.t.ppf(0.025, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * ratios.std())


def test_a_relative_difference_over_little_or_nothing() -> None:
    """Guards against a bootstrap of a handful of problems, and a division by 0."""
    ours, theirs = outcomes_of([1, 1, 0] * 67), outcomes_of([1, 0, 0] * 67)
    few = relative_difference(ours[:199], theirs[:199])
    assert few.value == pytest.approx(66 / 67)  # 199 problems: 133 right against 67
    assert (math.isnan(few.low), math.isnan(few.high), few.percent("+")) == (True, True, "+98.5")
    assert not math.isnan(relative_difference(ours, theirs).low)
    for baseline in (outcomes_of([0] * len(ours)), []):
        nothing = relative_difference(ours, baseline)
        assert (math.isnan(nothing.value), nothing.n) == (True, 0)


def test_resamples_without_a_right_baseline_are_left_out() -> None:
    """One right answer among 211 problems: a third of the resamples lack it, and would make the limits infinite."""
    found = relative_difference(outcomes_of([1] * 11 + [0] * 200), outcomes_of([1] + [0] * 210))
    assert found.value == pytest.approx(10)
    assert math.isfinite(found.low + found.high)


def test_a_mean_by_hand() -> None:
    """(0.2 + 0.6) / 2; below sqrt(0.03^2 + 0.04^2) / 2 = 0.025, above sqrt(0.05^2 + 0.12^2) / 2 = 0.065."""
    found = macro_average([Estimate(0.2, 0.17, 0.25, 7), Estimate(0.6, 0.56, 0.72, 11)])
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.375, 0.465), abs=1e-12)
    assert found.n == 18


def test_a_mean_of_differences() -> None:
    """Guards against problems of two benchmarks that share an id: each difference has its own limits."""
    ours, theirs = [("a", True), ("b", True)], [("a", False), ("b", False)]
    found = macro_difference([(ours, theirs), (ours, theirs)])
    mean = macro_average([difference(ours, theirs)] * 2)
    assert (found.value, found.low, found.high, found.n) == (1.0, mean.low, mean.high, 4)
    assert found.p < difference(ours, theirs).p
    assert math.isnan(macro_difference([(ours, theirs), (ours, [])]).p)
    assert math.isnan(macro_difference([]).value)
