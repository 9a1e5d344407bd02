"""Rates with 95% intervals that respect problems: several answers to one problem are not independent."""

from __future__ import annotations

import math
import statistics
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

    def percent(self, sign: str = "") -> str:
        """In percent: 61.2 [59.3, 63.1]; with sign="+", +1.2 [-0.3, +2.7]."""
        if not self.n:
            return "undefined"
        value, low, high = (f"{100 * x:{sign}.1f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


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


def difference(outcomes: Sequence[tuple[str, bool]], baseline: Sequence[tuple[str, bool]]) -> Estimate:
    """The difference of two rates on the same problems, first minus second, with a 95% interval paired by problem.

    Raises ValueError when the problems are not the same; NaN limits for fewer than two problems.
    """
    ours, theirs = _by_problem(outcomes), _by_problem(baseline)
    if ours.keys() != theirs.keys():
        raise ValueError("a paired difference needs answers to the same problems on both sides")
    gaps = [statistics.fmean(ours[p]) - statistics.fmean(theirs[p]) for p in ours]
    if len(gaps) < 2:
        return Estimate(statistics.fmean(gaps) if gaps else math.nan, math.nan, math.nan, len(gaps))
    mean = statistics.fmean(gaps)
    half = Z_95 * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return Estimate(mean, mean - half, mean + half, len(gaps))


def _by_problem(outcomes: Sequence[tuple[str, bool]]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = defaultdict(list)
    for problem, ok in outcomes:
        found[problem].append(ok)
    return found


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
