"""Permutation tests and bootstraps that compare two sides problem by problem, without assumptions on distributions.

A table has a row per problem and four columns: sum and number of the first side's outcomes, then of the second's. Its
difference is the first sum / number minus the second, each over all problems; for several tables it is the mean of their
differences.

scipy has both methods for samples of single numbers. Here a sample is a row of sums and numbers, and the statistic divides
their totals. `scipy.stats.permutation_test` can do that through indices, but takes 1.3 s where this takes 0.05 (500
problems, 10,000 swaps), because all swaps of a chunk are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rethink.seeds import stable_hash

Array = NDArray[np.float64]

N_DRAWS = 10_000
MAX_EXACT = 13
"""Up to this many problems, all 2^n swaps are counted."""

_CHUNK = 2**20


def permutation_p(tables: Sequence[Array], draws: int = N_DRAWS) -> float:
    """Return the two-sided p-value of "the sides of a problem are exchangeable": the share of swaps with |difference| /
    error at least as large.

    Exact for at most 13 problems, otherwise (1 + such draws) / (1 + draws) (Phipson and Smyth 2010). Dividing by the error
    changes nothing if both sides have equal numbers of outcomes. If they do not, the test also holds its level for equal
    rates of sides that are not exchangeable (Janssen 1997). Swaps that leave a side without outcomes are ignored. 1 if no
    problem differs.
    """
    n = sum(map(len, tables))
    exact = n <= MAX_EXACT
    observed = _scores(tables, np.zeros((1, n)))[0]
    n_swaps = n_as_large = 0
    for swaps_B_P in _all_swaps(n) if exact else _random_swaps(n, draws):
        scores = _scores(tables, swaps_B_P)
        n_swaps += int(np.isfinite(scores).sum())
        n_as_large += int((scores >= observed - 1e-9).sum())  # ties differ by rounding
    return n_as_large / n_swaps if exact else (1 + n_as_large) / (1 + n_swaps)


def bootstrap_limits(tables: Sequence[Array], resamples: int, relative: bool = False) -> tuple[float, float]:
    """Return 95% limits of the difference, or of the difference over the second rate (`relative`): percentiles of resamples
    over the problems of each table.

    The percentiles are expanded for few problems (Hesterberg 2015, section 4.3). Resamples with an empty side are ignored.
    """
    from scipy.special import ndtr, stdtrit

    means = np.zeros(resamples)
    for index, table in enumerate(tables):
        seed = stable_hash("bootstrap", index, len(table))
        gaps = [
            _differences(weights_B_P @ table, relative) for weights_B_P in _resample_counts(len(table), resamples, seed)
        ]
        means += np.concatenate(gaps) / len(tables)
    n = min(map(len, tables))
    tail = ndtr(-stdtrit(n - 1, 0.975) * np.sqrt(n / (n - 1)))
    low, high = np.quantile(means[np.isfinite(means)], [tail, 1 - tail])
    return float(low), float(high)


def _differences(totals_B_4: Array, relative: bool = False) -> Array:
    """Return the difference per row of totals; not finite if a side is empty, or if `relative` divides by 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = totals_B_4[:, 0] / totals_B_4[:, 1], totals_B_4[:, 2] / totals_B_4[:, 3]
        return (first - second) / second if relative else first - second


def _scores(tables: Sequence[Array], swaps_B_P: Array) -> Array:
    """Return difference^2 / (difference^2 + variance) after each set of swaps: it grows with |difference| / error and
    cannot overflow.
    """
    gap, variance = np.zeros(len(swaps_B_P)), np.zeros(len(swaps_B_P))
    start = 0
    for table in tables:
        one_gap, one_variance = _difference_after_swaps(table, swaps_B_P[:, start : start + len(table)])
        gap += one_gap
        variance += one_variance
        start += len(table)
    gap[np.abs(gap) < 1e-12] = 0.0  # by rounding
    return np.divide(gap**2, gap**2 + variance, out=np.abs(gap), where=gap != 0)


def _difference_after_swaps(table: Array, swaps_B_P: Array) -> tuple[Array, Array]:
    """Return the difference and its linearized variance per set of swaps; NaN if a side is empty."""
    other = table[:, [2, 3, 0, 1]]
    totals_B_4 = table.sum(axis=0) + swaps_B_P @ (other - table)
    right, n, right_2, n_2 = totals_B_4.T
    n, n_2 = np.where(n == 0, np.nan, n), np.where(n_2 == 0, np.nan, n_2)
    # A problem's part of the error is a sum of its four columns with these factors, so the sum of all squared parts needs
    # only the summed products of columns.
    factors_B_4 = np.stack([1 / n, -right / n**2, -1 / n_2, right_2 / n_2**2], axis=1)
    products, other_products = _products(table), _products(other)
    products_B_4_4 = (products.sum(axis=0) + swaps_B_P @ (other_products - products)).reshape(-1, 4, 4)
    variance = np.einsum("bi,bij,bj->b", factors_B_4, products_B_4_4, factors_B_4)
    return right / n - right_2 / n_2, np.maximum(0, variance) * len(table) / max(1, len(table) - 1)


def _products(table: Array) -> Array:
    return (table[:, :, None] * table[:, None, :]).reshape(-1, 16)


def _all_swaps(n: int) -> Iterator[Array]:
    yield (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)


def _random_swaps(n: int, draws: int) -> Iterator[Array]:
    rng = np.random.default_rng(stable_hash("permutation", n))
    for size in _chunk_sizes(n, draws):
        yield rng.integers(0, 2, (size, n), dtype=np.int8).astype(np.float64)


def _resample_counts(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each of n problems is drawn, per resample of n."""
    rng = np.random.default_rng(seed)
    for size in _chunk_sizes(n, resamples):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _chunk_sizes(n: int, total: int) -> Iterator[int]:
    """Yield the sizes of chunks with bounded memory."""
    chunk = max(1, _CHUNK // max(1, n))
    for done in range(0, total, chunk):
        yield min(chunk, total - done)
