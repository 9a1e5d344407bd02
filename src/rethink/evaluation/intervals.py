"""Rates and differences of rates with 95% intervals. Problems are the units: answers to one problem are not independent.

An outcome is a problem's id and a value: right or wrong, or a number from 0 to 1 such as a problem's pass@k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rethink.evaluation.resampling import relative_limits

Array = NDArray[np.float64]
Outcome = tuple[str, float]
"""(problem, value)."""

Outcomes = Sequence[Outcome]

BOOTSTRAP_FROM = 200
RESAMPLES = 10_000
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, from `n` answers; all NaN without answers.

    `at_least` and `at_most` are the lowest and the highest value that replies without a verdict allow: for an accuracy, all
    of them are wrong, or all are right. Both are None if all were graded.
    """

    value: float
    low: float
    high: float
    n: int
    at_least: float | None = field(default=None, kw_only=True)
    at_most: float | None = field(default=None, kw_only=True)

    def percent(self, sign: str = "") -> str:
        """Return value, limits and bounds in percent: 61.2 [59.3, 63.1], or 61.2 [59.3, 63.1] (60.0 to 62.0) if some
        replies were not graded; with sign="+", +1.2 [-0.3, +2.7].
        """
        shown = "undefined"
        if self.n:
            value, low, high = (f"{100 * x:{sign}.1f}" for x in (self.value, self.low, self.high))
            shown = value if math.isnan(self.low) else f"{value} [{low}, {high}]"
        if self.at_least is None or self.at_most is None:
            return shown
        return f"{shown} ({100 * self.at_least:{sign}.1f} to {100 * self.at_most:{sign}.1f})"

    def value_percent(self) -> str:
        """Return the value alone in percent: 61.2."""
        return f"{100 * self.value:.1f}" if self.n else "undefined"

    def plain(self, digits: int = 1) -> str:
        """Return value and limits unscaled, for quantities that are not shares: 12.5 [11.9, 13.1]."""
        if not self.n:
            return "unknown"
        value, low, high = (f"{x:.{digits}f}" for x in (self.value, self.low, self.high))
        return value if math.isnan(self.low) else f"{value} [{low}, {high}]"


E = TypeVar("E", bound=Estimate)

UNDEFINED = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Difference(Estimate):
    """First rate minus second, from `n` problems. `p` is the two-sided p-value of "no difference": the interval of level
    1 - p has 0 as a limit. So p is below 0.05 if and only if the 95% interval does not contain 0.
    """

    p: float

    @property
    def sign_is_open(self) -> bool:
        """Whether the replies that were not graded allow another sign, or 0."""
        if self.at_least is None or self.at_most is None:
            return False
        return self.at_least <= 0 <= self.at_most


def rate(outcomes: Outcomes) -> Estimate:
    """Return the mean of all outcomes with Wilson's interval (1927) at an effective sample size.

    The quantile is Student's where the spread between problems was estimated; see `rate_limits`. With one right-or-wrong
    answer per problem, this is the plain Wilson interval.
    """
    n = len(outcomes)
    if n == 0:
        return UNDEFINED
    sums_P, counts_P = _sums_and_counts(outcomes, sorted({problem for problem, _ in outcomes}))
    low, high = rate_limits(sums_P, counts_P, _is_binary(outcomes))
    return Estimate(float(sums_P.sum() / n), float(low), float(high), n)


def average(outcomes: Outcomes) -> Estimate:
    """Return the mean of outcomes of any size (such as tokens), with Student's interval clustered by problem; NaN limits
    for fewer than two problems.
    """
    n = len(outcomes)
    if n == 0:
        return UNDEFINED
    sums_P, counts_P = _sums_and_counts(outcomes, sorted({problem for problem, _ in outcomes}))
    mean, n_problems = float(sums_P.sum() / n), len(sums_P)
    if n_problems < 2:
        return Estimate(mean, math.nan, math.nan, n)
    variance = (_residuals(sums_P, counts_P) ** 2).sum() / n**2 * n_problems / (n_problems - 1)
    half = float(_quantile(np.array(n_problems - 1), 0.95)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n)


def difference(outcomes: Outcomes, baseline: Outcomes) -> Difference:
    """Return the rate of the first outcomes minus that of the second, paired by problem, with `difference_limits`.

    A problem may lack outcomes on either side (a fix rate has none where no draft was wrong). NaN limits and p-value for
    fewer than two problems; all NaN if a side has no outcomes.
    """
    return _with_p_value(_gap_by_level(_table(outcomes, baseline), _is_binary([*outcomes, *baseline])))


def relative_difference(outcomes: Outcomes, baseline: Outcomes) -> Estimate:
    """Return the difference divided by the baseline's rate, with a bootstrap interval.

    NaN limits below `BOOTSTRAP_FROM` problems; undefined for a baseline of 0.
    """
    table = _table(outcomes, baseline)
    gap = _gap_by_level(table, _is_binary([*outcomes, *baseline]))(0.95)
    base = float(table[:, 2].sum() / table[:, 3].sum()) if gap.n else 0.0
    if not base:
        return UNDEFINED
    low, high = relative_limits(table, RESAMPLES) if len(table) >= BOOTSTRAP_FROM else (math.nan, math.nan)
    return Estimate(gap.value / base, low, high, gap.n)


def paired_difference(outcomes: Outcomes, baseline: Outcomes) -> Difference:
    """Return the `difference` of two sides with the same problems. Raise ValueError if their problems differ."""
    if {problem for problem, _ in outcomes} != {problem for problem, _ in baseline}:
        raise ValueError("a paired difference needs answers to the same problems on both sides")
    return difference(outcomes, baseline)


def macro_average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the unweighted mean of estimates on different problems, such as several suites; undefined if one of them is.
    Its bounds are the means of theirs.

    The interval adds the squared distances to the members' limits (MOVER: Zou and Donner 2008, eq. 2, with factors 1 /
    number of members).
    """
    values: list[float] = []
    below: list[float] = []
    above: list[float] = []
    n = 0
    for e in estimates:
        values.append(e.value)
        below.append(e.value - e.low)
        above.append(e.high - e.value)
        n += e.n
    if not values:
        return UNDEFINED
    if math.isnan(math.fsum(values)):
        return with_mean_bounds(UNDEFINED, estimates)
    mean = math.fsum(values) / len(values)
    found = Estimate(mean, mean - math.hypot(*below) / len(values), mean + math.hypot(*above) / len(values), n)
    return with_mean_bounds(found, estimates)


def with_mean_bounds(found: E, members: Sequence[Estimate]) -> E:
    """Return the unweighted mean of the members with the means of their bounds, if any of them has bounds."""
    lowest: list[float] = []
    highest: list[float] = []
    for e in members:
        lowest.append(e.value if e.at_least is None else e.at_least)
        highest.append(e.value if e.at_most is None else e.at_most)
    return bounded(found, math.fsum(lowest) / len(members), math.fsum(highest) / len(members))


def bounded(found: E, lowest: float, highest: float) -> E:
    """Return the estimate with the lowest and highest value that ungraded replies allow, unless they change nothing."""
    if lowest == highest or math.isnan(lowest) or math.isnan(highest):
        return found
    return replace(found, at_least=lowest, at_most=highest)


def macro_difference(pairs: Sequence[tuple[Outcomes, Outcomes]]) -> Difference:
    """Return the unweighted mean of `difference` over suites. Problems of different suites are different even if their ids
    are equal.
    """
    gaps = [_gap_by_level(_table(*pair), _is_binary([*pair[0], *pair[1]])) for pair in pairs]
    return _with_p_value(lambda level: macro_average([gap(level) for gap in gaps]))


def _with_p_value(interval: Callable[[float], Estimate]) -> Difference:
    """Return a difference from its intervals by level. The p-value is 1 minus the level that has 0 as a limit, found by
    bisection on the side of 0.05 on which the 95% interval says that it lies; NaN without an interval.
    """
    gap = interval(0.95)
    if math.isnan(gap.low):
        return Difference(gap.value, gap.low, gap.high, gap.n, math.nan)
    inside = gap.low <= 0 <= gap.high
    low, high = (0.05, 1.0) if inside else (0.0, 0.05)
    for _ in range(40):
        p = (low + high) / 2
        wider = interval(1 - p)
        low, high = (p, high) if wider.low <= 0 <= wider.high else (low, p)
    return Difference(gap.value, gap.low, gap.high, gap.n, high)


def clustered_rate(clusters: Mapping[tuple[int, int], int], n_ungraded: int = 0) -> Estimate:
    """Return the share of answers that is right, as `rate` does; undefined without answers. `clusters` maps (right answers,
    answers) to the number of problems that have so many. More answers, which were not graded, give its bounds.
    """
    kinds = np.array(list(clusters), dtype=np.float64).reshape(-1, 2)
    pairs = np.repeat(kinds, np.array(list(clusters.values()), dtype=np.int64), axis=0)
    sums_P, counts_P = pairs[pairs[:, 1] > 0].T
    n_right, n = int(sums_P.sum()), int(counts_P.sum())
    found = UNDEFINED
    if n:
        low, high = rate_limits(sums_P, counts_P, binary=True)
        found = Estimate(n_right / n, float(low), float(high), n)
    n_all = n + n_ungraded
    return bounded(found, n_right / n_all, (n_right + n_ungraded) / n_all) if n_ungraded else found


def wilson_interval(p: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval for a share p of n independent answers."""
    low, high = _wilson_limits(np.float64(p), np.float64(n), np.float64(Z_95))
    return float(low), float(high)


def rate_limits(sums_P: Array, counts_P: Array, binary: bool) -> tuple[Array, Array]:
    """Return 95% limits of sum / count over problems, the last axis; any other axes come before it.

    The effective sample size is n / deff. deff is the variance of the mean with answers clustered by problem, divided by
    that of independent right-or-wrong answers, for which the size is at most n (`binary`). Without any visible variance
    (all problems alike), each problem counts as one answer. The quantile is Student's if deff is estimated
    (`difference_limits` uses Student's always).

    One correction is not from the literature. Near 0 and 1 a few problems carry all the variance. A sample of problems may
    miss them, and then deff comes out too small. About problems p (1 - p) such problems are expected, so exp(-problems p (1
    - p)) approximates the chance of seeing none (Poisson). By this share the effective size moves back to one answer per
    problem. Without the correction, 53 problems with 64 answers each at a rate of 5% cover 92% instead of 95%.
    `benchmarks/interval_coverage.py` measures the coverage with it.
    """
    p, size, known = _effective_sizes(sums_P, counts_P, binary)
    return _wilson_limits(p, size, np.where(known, Z_95, _quantile(_degrees(counts_P), 0.95)))


def _effective_sizes(sums_P: Array, counts_P: Array, binary: bool) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return the rates, their effective sample sizes as in `rate_limits`, and whether these were not estimated."""
    n, n_problems = counts_P.sum(-1), (counts_P > 0).sum(-1)
    p = np.clip(sums_P.sum(-1) / n, 0, 1)
    variance = (_residuals(sums_P, counts_P) ** 2).sum(-1) / n**2 * n_problems / _degrees(counts_P)
    seen = (variance > 1e-24) & (n_problems > 1)  # rounding is not variance
    inverse_size = np.where(seen, variance, 1) / np.where(seen, p * (1 - p), n_problems)
    if binary:
        inverse_size = np.maximum(inverse_size, 1 / n)
    p_missed = np.exp(-n_problems * p * (1 - p))
    inverse_size += p_missed * np.maximum(0, 1 / n_problems - inverse_size)
    known = ~seen | (binary & (n == n_problems))
    return p, 1 / np.where(known, 1 / n_problems, inverse_size), known


def difference_limits(table_P_4: Array, binary: bool, level: float = 0.95) -> tuple[Array, Array]:
    """Return limits of the first rate minus the second, from a table as in `resampling`; other axes come before its
    two.

    The limits combine those of the two rates and their correlation (Newcombe 1998, method 10; Zou 2007): (value - low)^2 =
    a^2 - 2 c a b + b^2, where a is the distance of the first rate to its lower limit and b that of the second to its upper
    limit. The correlation c is at most 1 - 3 / problems: sides that agree on all problems need not agree on the next.
    """
    return _limits_by_level(table_P_4, binary)(level)


def _limits_by_level(table_P_4: Array, binary: bool) -> Callable[[float], tuple[Array, Array]]:
    """Return `difference_limits` of a table as a function of the level. It goes over the problems once: a p-value needs the
    limits at 40 levels.
    """
    columns_4_P = np.moveaxis(table_P_4, -1, 0)
    sums_2_P, counts_2_P = columns_4_P[::2], columns_4_P[1::2]
    p, p_2 = sums_2_P.sum(-1) / counts_2_P.sum(-1)
    clipped, sizes, _ = _effective_sizes(sums_2_P, counts_2_P, binary)
    degrees = _degrees(counts_2_P)
    most = 1 - 3 / max(3, table_P_4.shape[-2])
    c = np.minimum(_correlation(*_residuals(sums_2_P, counts_2_P)), most)

    def limits(level: float) -> tuple[Array, Array]:
        (low, low_2), (high, high_2) = _wilson_limits(clipped, sizes, _quantile(degrees, level))
        below = _third_side(p - low, high_2 - p_2, c)
        above = _third_side(high - p, p_2 - low_2, c)
        return np.maximum(-1, p - p_2 - below), np.minimum(1, p - p_2 + above)

    return limits


def _third_side(a: Array, b: Array, c: Array) -> Array:
    """Return the side of a triangle opposite the angle with cosine c, between sides a and b."""
    return np.sqrt(np.maximum(0, a**2 - 2 * c * a * b + b**2))


def _correlation(ours: Array, theirs: Array) -> Array:
    """Return the correlation of the two sides' residuals over problems; 0 if one has no spread."""
    scale = np.sqrt((ours**2).sum(-1) * (theirs**2).sum(-1))
    spread = scale > 1e-12
    return np.where(spread, (ours * theirs).sum(-1), 0) / np.where(spread, scale, 1)


def _degrees(counts_P: Array) -> NDArray[np.int64]:
    """Return the degrees of freedom of the spread between problems."""
    return np.maximum(1, (counts_P > 0).sum(-1) - 1)


def _residuals(sums_P: Array, counts_P: Array) -> Array:
    return sums_P - (sums_P.sum(-1) / counts_P.sum(-1))[..., None] * counts_P


def _wilson_limits(p: Array | np.float64, n: Array | np.float64, z: Array | np.float64) -> tuple[Array, Array]:
    """Return Wilson's limits at any quantile; exactly 0 or 1 at the end for a rate of 0 or 1."""
    z2 = z**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = np.maximum(0, center - half), np.minimum(1, center + half)
    return np.where(p <= 0, 0.0, low), np.where(p >= 1, 1.0, high)  # rounding would leave them a last bit off


def _quantile(degrees: NDArray[np.int64], level: float) -> Array:
    """Return the quantile of Student's t that bounds a two-sided interval of this level."""
    from scipy.special import stdtrit  # scipy takes a third of a second to import

    return np.asarray(stdtrit(degrees, (1 + level) / 2), dtype=np.float64)


def _sums_and_counts(outcomes: Outcomes, problems: Sequence[str]) -> tuple[Array, Array]:
    """Return the sum and number of outcomes per problem."""
    rows = {problem: row for row, problem in enumerate(problems)}
    sums, counts = [0.0] * len(rows), [0.0] * len(rows)
    for problem, value in outcomes:
        sums[rows[problem]] += value
        counts[rows[problem]] += 1
    return np.array(sums), np.array(counts)


def _table(outcomes: Outcomes, baseline: Outcomes) -> Array:
    problems = sorted({problem for problem, _ in (*outcomes, *baseline)})
    return np.stack([*_sums_and_counts(outcomes, problems), *_sums_and_counts(baseline, problems)], axis=-1)


def _gap_by_level(table: Array, binary: bool) -> Callable[[float], Estimate]:
    """Return the difference of a table's rates as a function of its limits' level; all NaN if a side has no outcomes."""
    sums, counts, sums_2, counts_2 = table.sum(axis=0)
    if not counts or not counts_2:
        return lambda level: UNDEFINED
    value, n = float(sums / counts - sums_2 / counts_2), len(table)
    if n < 2:
        return lambda level: Estimate(value, math.nan, math.nan, n)
    limits = _limits_by_level(table, binary)

    def gap(level: float) -> Estimate:
        low, high = limits(level)
        return Estimate(value, float(low), float(high), n)

    return gap


def _is_binary(outcomes: Outcomes) -> bool:
    return all(value in (0, 1) for _, value in outcomes)
