"""A bootstrap over problems for the relative difference of two sides, which has no closed form of ours.

A table has a row per problem and four columns: sum and number of the first side's outcomes, then of the second's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rethink.seeds import stable_hash

Array = NDArray[np.float64]

_CHUNK = 2**20


def relative_limits(table: Array, resamples: int) -> tuple[float, float]:
    """Return 95% limits of the difference of the two rates over the second rate: percentiles of resamples over
    problems.

    The percentiles are expanded for few problems (Hesterberg 2015, section 4.3). Resamples with an empty side, or with a
    second rate of 0, are ignored.
    """
    from scipy.special import ndtr, stdtrit

    n = len(table)
    seed = stable_hash("bootstrap", 0, n)
    found = [_relative_differences(weights_B_P @ table) for weights_B_P in _resample_counts(n, resamples, seed)]
    ratios = np.concatenate(found)
    tail = ndtr(-stdtrit(n - 1, 0.975) * np.sqrt(n / (n - 1)))
    low, high = np.quantile(ratios[np.isfinite(ratios)], [tail, 1 - tail])
    return float(low), float(high)


def _relative_differences(totals_B_4: Array) -> Array:
    """Return the relative difference per row of totals; not finite if a side is empty or the second rate is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = totals_B_4[:, 0] / totals_B_4[:, 1], totals_B_4[:, 2] / totals_B_4[:, 3]
        return np.asarray((first - second) / second)


def _resample_counts(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each of n problems is drawn, per resample of n, in chunks with bounded memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n)
    for done in range(0, resamples, chunk):
        size = min(chunk, resamples - done)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
