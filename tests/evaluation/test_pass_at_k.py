"""pass@k against an enumeration of all subsets, and the values of k."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.evaluation.pass_at_k import default_ks, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 7])
def test_against_all_subsets(n: int) -> None:
    """Guards against the biased 1 - (1 - c/n)^k, and against answers drawn twice."""
    for n_right in range(n + 1):
        answers = [i < n_right for i in range(n)]
        for k in range(1, n + 1):
            hits = [any(subset) for subset in combinations(answers, k)]
            assert pass_at_k(n, n_right, k) == pytest.approx(sum(hits) / len(hits), abs=1e-15)


@given(st.integers(1, 300), st.data())
def test_against_binomials_and_never_less_for_more(n: int, data: st.DataObject) -> None:
    """Guards against overflow and rounding: exact integers, then one division; and it grows with k and right answers."""
    n_right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    found = pass_at_k(n, n_right, k)
    exact = (math.comb(n, k) - math.comb(n - n_right, k)) / math.comb(n, k)
    assert found == pytest.approx(exact, abs=1e-13)
    assert (found == 1.0) == (k > n - n_right) or exact > 1 - 1e-13  # what is certain is exactly 1
    assert found <= pass_at_k(n, min(n, n_right + 1), k) + 1e-13
    assert found <= pass_at_k(n, n_right, min(n, k + 1)) + 1e-13


def test_k_above_n_is_undefined() -> None:
    """Guards against pass@8 of 4 answers."""
    assert math.isnan(pass_at_k(4, 2, 8))
    assert math.isnan(pass_at_k(0, 0, 1))


@pytest.mark.parametrize(("n", "n_right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0)])
def test_nonsense_is_refused(n: int, n_right: int, k: int) -> None:
    """Guards against arguments in the wrong order."""
    with pytest.raises(ValueError, match="is not defined for"):
        pass_at_k(n, n_right, k)


def test_default_values_of_k() -> None:
    """Guards against a k that cannot be told from n answers, and against one that is left out at a power of two."""
    assert [default_ks(n) for n in (1, 2, 3, 4, 7, 8)] == [(1,), (1, 2), (1, 2), (1, 2, 4), (1, 2, 4), (1, 2, 4, 8)]
    assert default_ks(64)[-1] == 64
    with pytest.raises(ValueError, match="at least one answer"):
        default_ks(0)
