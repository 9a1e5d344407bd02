"""Several runs of the same methods, with other seeds: what they say of the methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rethink.evaluation.intervals import Difference


def over_seeds(values: Sequence[float]) -> Difference:
    """Return the mean of one value per run with Student's 95% interval and the two-sided p-value of "the mean is 0". `n` is
    the number of runs.

    The interval is about other runs of the same kind; intervals over problems take the runs as given. NaN limits and
    p-value for fewer than two runs, and for runs without any spread, which tell nothing of it. All NaN without values, and
    if one is NaN.

    >>> over_seeds([0.042, 0.026, 0.036]).percent("+")
    '+3.5 [+1.5, +5.5]'
    """
    n = len(values)
    if n == 0 or any(math.isnan(value) for value in values):
        return Difference(math.nan, math.nan, math.nan, 0, math.nan)
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, n - 1) / n)
    if error <= 1e-12 * max(map(abs, values)):  # rounding is not spread
        return Difference(mean, math.nan, math.nan, n, math.nan)
    from scipy.special import stdtr, stdtrit  # scipy takes a third of a second to import

    half = float(stdtrit(n - 1, 0.975)) * error
    return Difference(mean, mean - half, mean + half, n, 2 * float(stdtr(n - 1, -abs(mean) / error)))
