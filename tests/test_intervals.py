"""Rates, differences and means with their intervals: against scipy, by hand, and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from rethink.evaluate.intervals import difference, rate, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 13), (13, 13), (1, 7), (5, 11), (613, 1000), (1, 100_003)])
def test_wilson_against_scipy(k: int, n: int) -> None:
    """Guards against a slip in the formula; 1e-12 is rounding."""
    theirs = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(k / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 13), (13, 13), (5, 11)])
def test_one_answer_per_problem_is_the_plain_interval(k: int, n: int) -> None:
    """Guards against a cluster correction where there are no clusters."""
    found = rate([(f"p{i}", i < k) for i in range(n)])
    theirs = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_effective_sample_size_by_hand() -> None:
    """Guards against a wrong cluster variance. Three problems, two answers each: 2, 1 and 0 right.

    p = 1/2; residual sums 1, 0, -1; variance of the mean = (1 + 0 + 1) / 6^2 * 3/2 = 1/12; n = (1/4) / (1/12) = 3.
    """
    outcomes = [("a", True), ("a", True), ("b", True), ("b", False), ("c", False), ("c", False)]
    found = rate(outcomes)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 3.0), abs=1e-12)


def test_repeated_answers_add_nothing() -> None:
    """Guards against intervals that shrink when each answer is counted again: each of 4 copies of 60 answers."""
    single = [(f"p{i}", i % 3 == 0) for i in range(60)]
    once, copied = rate(single), rate(single * 4)
    assert copied.value == once.value
    assert once.high - once.low <= copied.high - copied.low < 1.02 * (once.high - once.low)


def test_independent_answers_do_count() -> None:
    """Guards against one answer per problem as a rule: 20 answers without correlation are worth about 20."""
    draw = np.random.default_rng(7)
    outcomes = [(f"p{i % 100}", bool(draw.random() < 0.4)) for i in range(2000)]
    found = rate(outcomes)
    low, high = wilson(found.value, 2000)
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)


@pytest.mark.parametrize("outcome", [True, False])
def test_all_alike_does_not_give_zero_width(outcome: bool) -> None:
    """Guards against certainty from a sample: 11 problems all right, however many answers each, are 11 answers."""
    found = rate([(f"p{i % 11}", outcome) for i in range(55)])
    theirs = binomtest(11 * outcome, 11).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.high - found.low > 0.2


@pytest.mark.parametrize(("n_right", "n_each"), [(1, 2), (1, 3), (2, 7)])
def test_problems_without_any_spread_count_once(n_right: int, n_each: int) -> None:
    """Sums of residuals that are zero but for rounding once counted as a tiny variance: 1 of 3 right in each of 5
    problems then had the interval of 15 answers, where 1 of 2 had that of 5."""
    outcomes = [(f"p{i}", j < n_right) for i in range(5) for j in range(n_each)]
    found = rate(outcomes)
    assert (found.low, found.high) == pytest.approx(wilson(n_right / n_each, 5), abs=1e-12)


def test_one_problem_is_one_answer() -> None:
    """Guards against a division by zero clusters minus one."""
    found = rate([("a", True), ("a", False), ("a", True)])
    assert (found.low, found.high) == pytest.approx(wilson(2 / 3, 1), abs=1e-12)


def test_no_answers_give_nan() -> None:
    """Guards against 0% where nothing was measured."""
    found = rate([])
    assert [math.isnan(x) for x in (found.value, found.low, found.high)] == [True] * 3
    assert (found.n, found.percent()) == (0, "undefined")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), min_size=1))
def test_intervals_hold_their_rate(outcomes: list[tuple[str, bool]]) -> None:
    """Guards against NaN and against intervals outside 0 to 1 for any little data set."""
    found = rate(outcomes)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize(
    ("n_problems", "n_each", "a", "b"), [(60, 4, 1.0, 1.0), (100, 7, 0.5, 1.5), (200, 2, 3.0, 1.0)]
)
def test_coverage_with_correlated_answers(n_problems: int, n_each: int, a: float, b: float) -> None:
    """Guards against intervals that ignore problems: each has its own chance from Beta(a, b), mean a / (a + b).

    Of 600 simulated data sets 95% should cover; the standard error of that share is 0.9%.
    """
    draw = np.random.default_rng(11)
    covered = 0
    for _ in range(600):
        chances = draw.beta(a, b, n_problems)
        right = draw.random((n_each, n_problems)) < chances
        found = rate([(str(p), bool(ok)) for row in right for p, ok in enumerate(row)])
        covered += found.low <= a / (a + b) <= found.high
    assert 0.92 <= covered / 600 <= 0.98


def test_difference_is_paired_by_problem() -> None:
    """Guards against an interval that ignores the pairing. Mean gaps of the problems: 1 - 1/2, 0 - 0, 1 - 0; their mean
    is 1/2, their standard deviation 1/2."""
    ours = [("a", True), ("a", True), ("b", False), ("c", True)]
    theirs = [("c", False), ("b", False), ("a", False), ("a", True)]
    half = norm.ppf(0.975) * 0.5 / math.sqrt(3)
    found = difference(ours, theirs)
    assert (found.value, found.n) == (0.5, 3)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.percent(sign="+") == f"+50.0 [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def test_a_difference_of_other_problems_is_refused_and_one_problem_has_no_interval() -> None:
    """Guards against comparing two different test sets, and against a made-up width."""
    with pytest.raises(ValueError, match="same problems"):
        difference([("a", True)], [("b", True)])
    assert math.isnan(difference([("a", True)], [("a", False)]).low)
