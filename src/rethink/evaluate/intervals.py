"""Rates with 95% intervals that respect problems: several answers to one problem are not independent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A rate with its 95% interval, from `n` answers; all NaN where there is none."""

    value: float
    low: float
    high: float
    n: int

    def percent(self) -> str:
        """In percent: 61.2 [59.3, 63.1]."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.n else "undefined"


def rate(outcomes: Sequence[tuple[str, bool]]) -> Estimate:
    """The share of True among (problem, outcome) pairs.

    Wilson's interval (1927) at an effective sample size n / deff, where deff is the variance of the mean with answers
    clustered by problem over that of independent ones. Where no variance can be seen (all alike), each problem counts
    as one answer. With one answer per problem it is Wilson's interval.
    """
    n = len(outcomes)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    p = sum(ok for _, ok in outcomes) / n
    low, high = wilson(p, _effective_n(outcomes, p))
    return Estimate(p, low, high, n)


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's score interval for a share p of n independent answers."""
    z2 = Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _effective_n(outcomes: Sequence[tuple[str, bool]], p: float) -> float:
    n = len(outcomes)
    n_right = sum(ok for _, ok in outcomes)
    residuals: dict[str, int] = defaultdict(int)  # n times the sum of (ok - p), as an integer: 0 is then 0
    for problem, ok in outcomes:
        residuals[problem] += n * ok - n_right
    n_problems = len(residuals)
    if n_problems == n:
        return n
    squares = sum(r * r for r in residuals.values())
    if n_problems < 2 or squares == 0:
        return n_problems
    variance = squares / n**4 * n_problems / (n_problems - 1)
    return min(float(n), p * (1 - p) / variance)
