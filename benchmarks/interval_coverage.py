"""How often 95% intervals contain the true value, by simulation: the tables of docs/evaluation.md, in percent.

    python benchmarks/interval_coverage.py

tests/evaluation/test_intervals_coverage.py checks some of these designs. Difficulties are Beta distributed; `icc` is the
correlation of two answers to one problem. Seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from rethink.evaluation.intervals import difference_limits, rate_limits
from rethink.evaluation.runs import over_seeds

Array = NDArray[np.float64]

RATES = [(30, 1, 0), (50, 4, 0.3), (50, 64, 0.6), (100, 1, 0), (100, 64, 0.3), (200, 64, 0.3), (500, 4, 0.3)]
"""Numbers of problems and answers, correlation of two answers to a problem."""

ARMS = [(1, 0.5, 0.4), (4, 0.3, 0.2), (64, 0.6, 0.5)]
"""Number of answers, and rates of two arms, whose difficulties correlate by 0.9; two answers to a problem by 0.3."""

FIX = (4, 0.6, 0.5, 0.3, 0.5, 0.3)
"""Number of drafts, rates of right ones, correlation of two drafts, and the chance of a fix / of a right draft, per arm."""

FRESH = (0.5, 0.3, 1.4)
"""Rate of right drafts, correlation of two drafts, and the chance of a fix / of a right draft."""

RUNS = [(3, 1631, 2), (5, 1631, 2), (5, 400, 64)]
"""Numbers of runs of each of two methods, of problems, and of answers to each. The rates of both are 0.6 on average, their
difficulties correlate by 0.9, and two answers to a problem by 0.3."""

SPREADS = (0.0, 0.005, 0.01, 0.02)
"""Standard deviation of the rates of runs of one method."""

SIZES = (10, 30, 50, 100, 200, 500)

REPEATS = 4000


def coverage(low: Array, high: Array, truth: float | Array) -> float:
    """Return how many of the intervals contain the true value, which may be another for each."""
    return float(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high)))


def answers(draw: np.random.Generator, n_problems: int, n: int, p: float, icc: float, repeats: int = REPEATS) -> Array:
    """Return right answers out of n, per data set and problem."""
    shape = (repeats, n_problems)
    t = draw.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), shape) if icc else np.full(shape, p)
    return draw.binomial(n, t).astype(np.float64)


def rate_coverage(n_problems: int, n: int, p: float, icc: float, repeats: int = REPEATS) -> float:
    right = answers(np.random.default_rng(3), n_problems, n, p, icc, repeats)
    return coverage(*rate_limits(right, np.full_like(right, n), binary=True), p)


def chances(p: float, icc: float) -> Array:
    """Return a thousand equally likely difficulties, ascending: approximately a Beta distribution."""
    if icc == 0:
        return np.full(1000, p)
    return np.asarray(beta.ppf((np.arange(1000) + 0.5) / 1000, p * (1 / icc - 1), (1 - p) * (1 / icc - 1)))


def ranks(draw: np.random.Generator, n_problems: int, correlation: float, repeats: int) -> list[NDArray[np.int64]]:
    """Return two correlated ranks, 0 to 999, per data set and problem."""
    shared, other = draw.standard_normal((2, repeats, n_problems))
    other = correlation * shared + np.sqrt(1 - correlation**2) * other
    return [(1000 * norm.cdf(x)).astype(np.int64) for x in (shared, other)]


def two_arms(
    draw: np.random.Generator,
    n_problems: int,
    n: int,
    p: float,
    p_2: float,
    icc: float,
    correlation: float,
    repeats: int,
) -> tuple[Array, float]:
    """Return tables of two arms whose difficulties correlate, and the true difference."""
    levels = [chances(mean, icc) for mean in (p, p_2)]
    at = ranks(draw, n_problems, correlation, repeats)
    right, right_2 = (draw.binomial(n, t[rank]) for t, rank in zip(levels, at, strict=True))
    everything = np.full_like(right, n)
    tables = np.stack([right, everything, right_2, everything], axis=-1).astype(np.float64)
    return tables, float(levels[0].mean() - levels[1].mean())


def fixes(
    draw: np.random.Generator,
    n_problems: int,
    n: int,
    p: float,
    p_2: float,
    icc: float,
    c: float,
    c_2: float,
    repeats: int,
) -> tuple[Array, float]:
    """Return tables of two fix rates, and the true difference. A wrong draft to a problem with chance t is fixed with c t.

    The true rate is E[fixed] / E[wrong] = c E[(1 - t) t] / E[1 - t].
    """
    columns, rates = [], []
    at, _ = ranks(draw, n_problems, 1, repeats)
    for mean, factor in ((p, c), (p_2, c_2)):
        t = chances(mean, icc)
        wrong = draw.binomial(n, 1 - t[at])
        columns += [draw.binomial(wrong, factor * t[at]), wrong]
        rates.append(float(factor * ((1 - t) * t).mean() / (1 - t).mean()))
    return np.stack(columns, axis=-1).astype(np.float64), rates[0] - rates[1]


def fresh_coverage(
    n_problems: int, n: int, p: float, icc: float, c: float, repeats: int = REPEATS
) -> tuple[float, float]:
    """Return the coverage for the fix rate of fresh answers, and for that of refinements minus that; n drafts each.

    A wrong draft to a problem with chance t is fixed with c t by its refinement, and with t by a fresh answer.
    """
    draw = np.random.default_rng(7)
    t = chances(p, icc)
    at, _ = ranks(draw, n_problems, 1, repeats)
    wrong = draw.binomial(n, 1 - t[at])
    fixed = draw.binomial(wrong, np.minimum(1, c * t[at]))
    by_fresh = wrong * (n - wrong) / (n - 1)
    every = ((1 - t) * t).mean() / (1 - t).mean()
    gap = ((1 - t) * np.minimum(1, c * t)).mean() / (1 - t).mean() - every
    tables = np.stack([fixed, wrong, by_fresh, wrong], axis=-1).astype(np.float64)
    tables = tables[wrong.sum(axis=1) > 0]
    limits = rate_limits(tables[..., 2], tables[..., 3], binary=n == 2)
    return coverage(*limits, every), coverage(*difference_limits(tables, binary=n == 2), gap)


def gap_coverage(found: tuple[Array, float]) -> float:
    tables, truth = found
    tables = tables[(tables.sum(axis=1)[:, [1, 3]] > 0).all(axis=1)]  # of data sets with outcomes on both sides
    return coverage(*difference_limits(tables, binary=True), truth)


def several_runs(
    draw: np.random.Generator, n_runs: int, n_problems: int, n: int, spread: float, repeats: int
) -> tuple[Array, Array, Array, Array]:
    """Return what several runs of two methods without a difference give: the tables of all runs together, the difference of
    each pair of runs, and two true differences: of these models on other problems, and of the methods on these problems.

    A run adds its own shift to the chance t of each problem, in proportion to t (1 - t).
    """
    t = chances(0.6, 0.3)
    weight = t * (1 - t) / (t * (1 - t)).mean()
    at = ranks(draw, n_problems, 0.9, repeats)
    shifts = draw.normal(0, spread, (2, n_runs, repeats))
    tables = np.zeros((repeats, n_problems, 4))
    gaps = np.zeros((repeats, n_runs))
    for run in range(n_runs):
        for arm, sign in ((0, 1), (1, -1)):
            right = draw.binomial(n, t[at[arm]] + shifts[arm, run, :, None] * weight[at[arm]])
            tables[..., 2 * arm] += right
            tables[..., 2 * arm + 1] += n
            gaps[:, run] += sign * right.mean(axis=1) / n
    return tables, gaps, (shifts[0] - shifts[1]).mean(axis=0), (t[at[0]] - t[at[1]]).mean(axis=1)


def runs_coverage(n_runs: int, n_problems: int, n: int, spread: float, repeats: int = REPEATS) -> dict[str, float]:
    """Return how often each interval contains each true difference, by "what it is about: interval"."""
    draw = np.random.default_rng(11)
    covered: dict[str, list[float]] = {}
    for _ in range(repeats // 100):
        tables, gaps, of_models, here = several_runs(draw, n_runs, n_problems, n, spread, 100)
        low, high = difference_limits(tables, binary=True)
        found = [over_seeds(list(row)) for row in gaps]
        over_low, over_high = np.array([gap.low for gap in found]), np.array([gap.high for gap in found])
        shares = {
            "these models, other problems: over problems": coverage(low, high, of_models),
            "other seeds, these problems: over problems": coverage(low, high, here),
            "other seeds, these problems: over seeds": coverage(over_low, over_high, here),
            "other seeds, other problems: over problems": coverage(low, high, 0),
            "other seeds, other problems: over seeds": coverage(over_low, over_high, 0),
            "other seeds, other problems: both together": coverage(
                np.minimum(low, over_low), np.maximum(high, over_high), 0
            ),
        }
        for name, share in shares.items():
            covered.setdefault(name, []).append(share)
    return {name: float(np.mean(some)) for name, some in covered.items()}


def line(name: str, shares: Iterable[float]) -> str:
    return f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |"


def agreeing(n_problems: int, differing: float, repeats: int) -> float:
    """Return the coverage for two arms with one answer each; the second loses some of the first's right answers."""
    draw = np.random.default_rng(7)
    right = draw.random((repeats, n_problems)) < 0.5
    lost = right & (draw.random(right.shape) < 2 * differing)
    every = np.ones(right.shape)
    return gap_coverage((np.stack([right, every, right & ~lost, every], axis=-1).astype(np.float64), differing))


def main() -> None:
    ps = (0.05, 0.1, 0.3, 0.5, 0.95)
    print(f"rates, {', '.join(map(str, ps))}")
    for n_problems, n, icc in [*RATES, (10, 1, 0), (50, 64, 0)]:
        print(
            line(f"{n_problems} x {n}, {icc}", [rate_coverage(n_problems, n, p, icc, 10_000) for p in ps]), flush=True
        )
    print(f"differences, {', '.join(map(str, SIZES))} problems")
    for n, p, q in ARMS:
        tables = (two_arms(np.random.default_rng(7), size, n, p, q, 0.3, 0.9, 4000) for size in SIZES)
        print(line(f"{n}, {p} and {q}", map(gap_coverage, tables)), flush=True)
    tables = (fixes(np.random.default_rng(7), size, *FIX, 4000) for size in SIZES)
    print(line("fix rate", map(gap_coverage, tables)), flush=True)
    for n in (2, 4):
        rates, gaps = zip(*(fresh_coverage(size, n, *FRESH) for size in SIZES), strict=True)
        print(line(f"fresh answers, {n} drafts", rates), flush=True)
        print(line(f"fix rate minus fresh, {n} drafts", gaps), flush=True)
    for differing in (0.02, 0.05):
        print(line(f"{differing} differ", [agreeing(size, differing, 4000) for size in SIZES]), flush=True)
    print(f"runs; columns: {'; '.join(runs_coverage(2, 10, 1, 0, 100))}")
    for n_runs, n_problems, n in RUNS:
        for spread in SPREADS:
            shares = runs_coverage(n_runs, n_problems, n, spread).values()
            print(line(f"{n_runs} x {n_problems} x {n}, {100 * spread:.1f}", shares), flush=True)


if __name__ == "__main__":
    main()
