"""Do 95% intervals cover, and do p-values hold their level? Simulations, vectorized over data sets.

A share of 0.95 among 4000 data sets has a standard error of 0.34%. Difficulties are Beta distributed; `icc` is the
correlation of two answers to one problem: 0 if all problems are equally hard, 1 if each is always or never solved.
"""

from __future__ import annotations

import numpy as np
import pytest

from interval_coverage import (
    REPEATS,
    agreeing,
    answers,
    coverage,
    fixes,
    fresh_coverage,
    gap_coverage,
    rate_coverage,
    runs_coverage,
    two_arms,
)
from p_values import DESIGNS, DIFFERENCES, shares
from rethink.evaluation.intervals import Estimate, macro_average, rate_limits
from rethink.evaluation.pass_at_k import pass_at_k

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("n_problems", "n", "icc", "p"),
    [
        *((53, 1, 0, p) for p in (0.1, 0.5, 0.9)),
        *((53, 4, 0.1, p) for p in (0.1, 0.5, 0.9)),
        *((199, 64, 0.6, p) for p in (0.05, 0.5, 0.95)),  # the normal approximation fails first near the ends
        *((499, 64, 0.3, p) for p in (0.05, 0.95)),
    ],
)
def test_rates(n_problems: int, n: int, icc: float, p: float) -> None:
    """Guards against intervals that ignore problems, or count them too much."""
    assert 0.93 <= rate_coverage(n_problems, n, p, icc) <= 0.97


@pytest.mark.parametrize(
    ("n_problems", "n", "p", "icc"),
    [(30, 64, 0.05, 0.6), (53, 64, 0.05, 0.3), (53, 64, 0.05, 0), (5, 64, 0.5, 0.3), (11, 4, 0.5, 0.1)],
)
def test_rates_of_few_problems_are_not_too_narrow(n_problems: int, n: int, p: float, icc: float) -> None:
    """Without the correction for problems that a sample missed, the first two cover 85 and 92%."""
    assert rate_coverage(n_problems, n, p, icc) >= 0.945


@pytest.mark.parametrize(("n_problems", "k"), [(53, 4), (199, 8)])
def test_pass_at_k(n_problems: int, k: int) -> None:
    """Guards against a problem's pass@k taken for a right or wrong answer: 8 answers, Beta(0.6, 1.4)."""
    right = answers(np.random.default_rng(5), n_problems, 8, 0.3, 1 / 3)
    values = np.array([pass_at_k(8, c, k) for c in range(9)])[right.astype(int)]
    truth = 1 - np.prod([(1.4 + i) / (2 + i) for i in range(k)])
    assert 0.93 <= coverage(*rate_limits(values, np.ones_like(values), binary=False), float(truth)) <= 0.97


ARMS = [
    (53, 1, 0.5, 0.4, 0.3, 0.8),
    (53, 64, 0.6, 0.5, 0.3, 0.9),
    (199, 1, 0.8, 0.8, 0.3, 0.0),
    (499, 8, 0.05, 0.07, 0.1, 0.9),
]
FIXES = [(53, 4, 0.6, 0.5, 0.3, 0.5, 0.3), (199, 2, 0.9, 0.8, 0.3, 0.3, 0.2)]


@pytest.mark.parametrize("design", ARMS)
def test_paired_differences(design: tuple[int, int, float, float, float, float]) -> None:
    """Guards against intervals that ignore the pairing: two arms with correlated difficulties."""
    assert 0.93 <= gap_coverage(two_arms(np.random.default_rng(7), *design, REPEATS)) <= 0.97


@pytest.mark.parametrize("design", FIXES)
def test_differences_of_fix_rates(design: tuple[int, int, float, float, float, float, float]) -> None:
    """Guards against the mean of problems' gaps, and against problems dropped for want of wrong drafts on one side."""
    assert 0.93 <= gap_coverage(fixes(np.random.default_rng(7), *design, REPEATS)) <= 0.97


@pytest.mark.parametrize(("n_problems", "n", "p"), [(53, 2, 0.5), (53, 4, 0.5), (199, 2, 0.8), (199, 7, 0.3)])
def test_rates_of_fresh_answers(n_problems: int, n: int, p: float) -> None:
    """Guards against intervals that ignore that drafts of one problem are one another's fresh answers."""
    covered, gap_covered = fresh_coverage(n_problems, n, p, 0.3, 1.4)
    assert 0.93 <= covered <= 0.97
    assert 0.93 <= gap_covered <= 0.97


@pytest.mark.parametrize(("n_problems", "n"), [(3, 4), (5, 1), (11, 4), (23, 64)])
def test_differences_of_few_problems_are_not_too_narrow(n_problems: int, n: int) -> None:
    """A bootstrap over problems covers 70, 57, 92 and 93% here."""
    assert gap_coverage(two_arms(np.random.default_rng(7), n_problems, n, 0.9, 0.8, 0.3, 0.9, REPEATS)) >= 0.945


@pytest.mark.parametrize(("n_runs", "spread"), [(2, 0.02), (3, 0.01), (5, 0.015)])
def test_intervals_over_seeds_are_about_other_seeds(n_runs: int, spread: float) -> None:
    """Guards against an interval over problems that is read as one of the methods, whose runs differ by their seeds."""
    found = runs_coverage(n_runs, 1631, 2, spread, 1600)
    assert 0.93 <= found["these models, other problems: over problems"] <= 0.97
    assert 0.93 <= found["other seeds, these problems: over seeds"] <= 0.97
    assert found["other seeds, these problems: over problems"] <= 0.83


@pytest.mark.parametrize("n_problems", [23, 53, 101])
def test_arms_that_mostly_agree_are_not_taken_for_equal(n_problems: int) -> None:
    """Without a limit to the correlation, arms that agree on all problems have an interval of no width; 2% differ."""
    assert agreeing(n_problems, 0.02, REPEATS) >= 0.945


def test_means_of_rates() -> None:
    """Guards against a mean weighted by answers, and against half-widths that are added: three unlike benchmarks."""
    designs = [(31, 16, 0.2, 0.3), (199, 4, 0.6, 0.3), (499, 1, 0.9, 0)]
    draw, truth = np.random.default_rng(13), float(np.mean([p for _, _, p, _ in designs]))
    members = []
    for n_problems, n, p, icc in designs:
        right = answers(draw, n_problems, n, p, icc)
        low_high = rate_limits(right, np.full_like(right, n), binary=True)
        members.append(np.stack([right.mean(axis=1) / n, *low_high], axis=-1))
    data_sets = zip(*(member.tolist() for member in members), strict=True)
    means = [macro_average([Estimate(value, low, high, 1) for value, low, high in rows]) for rows in data_sets]
    low, high = np.array([(mean.low, mean.high) for mean in means]).T
    assert 0.93 <= coverage(low, high, truth) <= 0.97


@pytest.mark.parametrize("name", DESIGNS)
def test_p_values_hold_their_level(name: str) -> None:
    """Guards against p-values that are small by themselves, above all for rates whose denominator is drawn: a permutation
    test found p < 0.01 in up to 11% of comparisons of equal damage rates.
    """
    for n_problems, n in ((10, 1), (10, 4), (20, 1), (20, 4), (50, 1), (200, 4)):
        covered, below_05, below_01 = shares(DESIGNS[name], n_problems, n)
        assert covered >= 0.935
        assert below_05 <= 0.065
        assert below_01 <= 0.017


@pytest.mark.parametrize("name", DIFFERENCES)
def test_p_values_find_a_difference(name: str) -> None:
    """Guards against p-values that are never small."""
    covered, below_05, _ = shares(DIFFERENCES[name], 50, 4)
    assert 0.93 <= covered <= 0.98
    assert below_05 >= 0.8
