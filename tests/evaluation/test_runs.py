"""Several runs of the same methods: intervals over seeds against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from rethink.evaluation.runs import over_seeds


@pytest.mark.parametrize("values", [[4.2, 2.6, 3.6], [-0.4, 0.6, -7.0], [0.01, -0.02], [1e-9, 2e-9, 5e-9, 7e-9]])
def test_an_interval_over_seeds_against_scipy(values: list[float]) -> None:
    """Guards against n for n - 1, a normal quantile, and a one-sided p-value."""
    found, theirs = over_seeds(values), ttest_1samp(values, 0)
    limits = theirs.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((sum(values) / len(values), limits.low, limits.high))
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.n == len(values)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_interval_and_p_value_over_seeds_agree(values: list[float]) -> None:
    """Guards against two procedures."""
    found = over_seeds(values)
    assert math.isnan(found.p) == math.isnan(found.low)
    assert math.isnan(found.p) or (found.p < 0.05) == (not found.low <= 0 <= found.high)


@pytest.mark.parametrize("values", [[0.3], [0.1, 0.1, 0.1], [0.0, 0.0], [0.1 + 0.2, 0.3]])
def test_runs_without_spread_have_no_interval(values: list[float]) -> None:
    """Guards against certainty, and p = 0, from one run or from one that was given twice."""
    found = over_seeds(values)
    assert found.value == pytest.approx(values[0])
    assert found.n == len(values)
    assert [math.isnan(x) for x in (found.low, found.high, found.p)] == [True] * 3


@pytest.mark.parametrize("values", [[], [0.1, math.nan, 0.2]])
def test_an_undefined_run_is_not_left_out(values: list[float]) -> None:
    """Guards against a mean of the runs that have a fix rate."""
    found = over_seeds(values)
    assert [math.isnan(x) for x in (found.value, found.low, found.high, found.p)] == [True] * 4
    assert (found.n, found.percent("+")) == (0, "undefined")
