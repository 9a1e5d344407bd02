"""Two arms compared problem by problem, without assumptions on their distribution: permutations and the bootstrap.

A table has a row per problem and four columns: sum and number of the first arm's outcomes, then of the second's. The
gap is sum / number of the first arm less that of the second, each over all problems; of several tables, the mean of
their gaps. Everything here is linear algebra on `_moments`, in chunks, so that memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rethink.seeds import stable_hash

Array = NDArray[np.float64]

N_DRAWS = 10_000
MAX_EXACT = 13
"""Up to so many problems all 2^n swaps are looked at."""

_CHUNK = 2**20
_FIRST, _SECOND = np.triu_indices(4)


def permutation_p(tables: Sequence[Array], draws: int = N_DRAWS) -> float:
    """The two-sided p-value of "the arms of a problem are exchangeable": the share of swaps with |gap| / error as large.

    Exact for at most 13 problems, else (1 + such draws) / (1 + draws) (Phipson and Smyth 2010). Dividing by the error
    changes nothing where both arms have the same numbers of outcomes; where they have not, the test then also holds
    its level for rates that are equal though the arms are not exchangeable (Janssen 1997). Swaps that leave a side
    without outcomes are left out. 1 where no problem differs.
    """
    n = sum(len(table) for table in tables)
    exact = n <= MAX_EXACT
    moments = [(_moments(table), _moments(table[:, [2, 3, 0, 1]])) for table in tables]
    changes = [(kept.sum(axis=0), swapped - kept) for kept, swapped in moments]
    observed = _score(changes, np.zeros((1, n)))[0]
    n_swaps = n_as_large = 0
    for swaps_B_P in _all_swaps(n) if exact else _random_swaps(n, draws):
        scores = _score(changes, swaps_B_P)
        n_swaps += int(np.isfinite(scores).sum())
        n_as_large += int((scores >= observed - 1e-9).sum())  # ties differ by rounding
    return n_as_large / n_swaps if exact else (1 + n_as_large) / (1 + n_swaps)


def bootstrap_limits(
    tables: Sequence[Array], resamples: int, t_95: Callable[[float], float], relative: bool = False
) -> tuple[float, float]:
    """95% limits of the gap, or of the gap over the second rate (`relative`): percentiles of resamples over the problems
    of each table.

    The percentiles are expanded for few problems (Hesterberg 2015, section 4.3); `t_95` is Student's quantile by
    degrees of freedom. Resamples with an empty side are left out.
    """
    means = np.zeros(resamples)
    for index, table in enumerate(tables):
        moments = _moments(table)
        draws = _weights(len(table), resamples, stable_hash("bootstrap", index, len(table)))
        gaps = [_statistic(weights_B_P @ moments, relative) for weights_B_P in draws]
        means += np.concatenate(gaps) / len(tables)
    n = min(len(table) for table in tables)
    tail = math.erfc(t_95(n - 1) * math.sqrt(n / (n - 1)) / math.sqrt(2)) / 2
    low, high = np.quantile(means[np.isfinite(means)], [tail, 1 - tail])
    return float(low), float(high)


def _statistic(sums_B_M: Array, relative: bool) -> Array:
    gaps = _gap(sums_B_M)[0]
    with np.errstate(invalid="ignore", divide="ignore"):  # a second rate of 0: left out, as empty sides are
        return gaps / (sums_B_M[:, 2] / sums_B_M[:, 3]) if relative else gaps


def _moments(table: Array) -> Array:
    """The four columns and their ten products: sums of these give the gap and its variance."""
    return np.concatenate([table, table[:, _FIRST] * table[:, _SECOND]], axis=1)


def _gap(sums_B_M: Array) -> tuple[Array, Array]:
    """Gap and linearised variance (no finite-sample factor) from sums of moments; NaN where a side is empty."""
    right, right_2 = sums_B_M[:, 0], sums_B_M[:, 2]
    n, n_2 = (np.where(sums_B_M[:, i] == 0, np.nan, sums_B_M[:, i]) for i in (1, 3))
    gap = right / n - right_2 / n_2
    # A problem's share of the gap's error is a sum of its four columns with these factors.
    factors = np.stack([1 / n, -right / n**2, -1 / n_2, right_2 / n_2**2], axis=1)
    products = factors[:, _FIRST] * factors[:, _SECOND] * np.where(_FIRST == _SECOND, 1, 2)
    return gap, np.maximum(0, (products * sums_B_M[:, 4:]).sum(axis=1))


def _score(changes: Sequence[tuple[Array, Array]], swaps_B_P: Array) -> Array:
    """gap^2 / (gap^2 + variance) after these swaps: it grows with |gap| / error, and does not overflow.

    `changes` has for each table its sums of moments, and what the swap of each problem adds to them.
    """
    gap, variance, start = np.zeros(len(swaps_B_P)), np.zeros(len(swaps_B_P)), 0
    for sums_M, change_P_M in changes:
        n = len(change_P_M)
        one_gap, one_variance = _gap(sums_M + swaps_B_P[:, start : start + n] @ change_P_M)
        gap += one_gap
        variance += one_variance * n / max(1, n - 1)
        start += n
    gap[np.abs(gap) < 1e-12] = 0.0  # by rounding
    return np.divide(gap**2, gap**2 + variance, out=np.abs(gap), where=gap != 0)


def _all_swaps(n: int) -> Iterator[Array]:
    yield (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)


def _random_swaps(n: int, draws: int) -> Iterator[Array]:
    rng = np.random.default_rng(stable_hash("permutation", n))
    for size in _sizes(n, draws):
        yield rng.integers(0, 2, (size, n), dtype=np.int8).astype(np.float64)


def _weights(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each of n problems is drawn, per resample of n."""
    rng = np.random.default_rng(seed)
    for size in _sizes(n, resamples):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _sizes(n: int, total: int) -> list[int]:
    chunk = max(1, _CHUNK // max(1, n))
    return [min(chunk, total - done) for done in range(0, total, chunk)]
