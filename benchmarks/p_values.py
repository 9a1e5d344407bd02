"""How often p-values are below 0.05 and 0.01, and 95% intervals contain the truth: the second table of docs/evaluation.md.

    python benchmarks/p_values.py

Each row is a comparison that the product prints. In the first rows there is no difference, so that every p-value below 0.05
is false. A p-value is below 0.05 if and only if the 95% interval does not contain 0, so intervals of both levels show how
often. Seeds are fixed; 4,000 data sets each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from interval_coverage import chances, coverage, ranks, two_arms
from rethink.evaluation.intervals import difference_limits
from rethink.evaluation.pass_at_k import pass_at_k

Array = NDArray[np.float64]
Design = Callable[[int, int], tuple[Array, float]]
"""(number of problems, answers to each) -> tables of data sets, and the true difference."""

SIZES = (10, 20, 50, 200)
ANSWERS = (1, 4)
REPEATS = 4000
ICC = 0.3
"""The correlation of two answers to one problem."""


def accuracies(p: float, p_2: float) -> Design:
    """Two models with these accuracies."""
    return lambda n_problems, n: two_arms(np.random.default_rng(1), n_problems, n, p, p_2, ICC, 0.9, REPEATS)


def gain(p: float, fix: float, damage: float) -> Design:
    """Refined minus first answers of one model."""

    def draw(n_problems: int, n: int) -> tuple[Array, float]:
        rng = np.random.default_rng(1)
        t = chances(p, ICC)
        right = rng.binomial(n, t[ranks(rng, n_problems, 1, REPEATS)[0]])
        refined = right - rng.binomial(right, damage) + rng.binomial(n - right, fix)
        every = np.full_like(right, n)
        truth = fix * (1 - t.mean()) - damage * t.mean()
        return np.stack([refined, every, right, every], axis=-1).astype(np.float64), float(truth)

    return draw


def damage(p: float, rate: float, rate_2: float, icc: float = ICC, shared: float = 0.9) -> Design:
    """Damage rates of two models with the same accuracy p of first answers. Fix rates are alike, with p wrong.

    The difficulties of a problem for the two models correlate by `shared`. With an `icc` over 0.3, easier problems are
    damaged less.
    """

    def draw(n_problems: int, n: int) -> tuple[Array, float]:
        rng = np.random.default_rng(1)
        t = chances(p, icc)
        columns, rates = [], []
        for at, mean in zip(ranks(rng, n_problems, shared, REPEATS), (rate, rate_2), strict=True):
            chance = mean * (1.5 - t) if icc > ICC else np.full_like(t, mean)
            right = rng.binomial(n, t[at])
            columns += [rng.binomial(right, chance[at]), right]
            rates.append((chance * t).sum() / t.sum())
        return np.stack(columns, axis=-1).astype(np.float64), float(rates[0] - rates[1])

    return draw


def pass_at(k: int, p: float) -> Design:
    """The pass@k of two models with one accuracy, from 2 n answers to a problem."""

    def draw(n_problems: int, n: int) -> tuple[Array, float]:
        tables, _ = two_arms(np.random.default_rng(1), n_problems, 2 * n, p, p, ICC, 0.9, REPEATS)
        values = np.array([pass_at_k(2 * n, c, k) for c in range(2 * n + 1)])
        for column in (0, 2):
            tables[..., column] = values[tables[..., column].astype(int)]
        tables[..., [1, 3]] = 1
        return tables, 0.0

    return draw


DESIGNS: dict[str, Design] = {
    "accuracy, .5 and .5": accuracies(0.5, 0.5),
    "accuracy, .9 and .9": accuracies(0.9, 0.9),
    "gain, 10% change each way": gain(0.5, 0.1, 0.1),
    "gain, 2% change each way": gain(0.5, 0.02, 0.02),
    "pass@2, .5 and .5": pass_at(2, 0.5),
    "damage, .05 and .05 of 80% right": damage(0.8, 0.05, 0.05),
    "damage, .05 and .05 of 50% right": damage(0.5, 0.05, 0.05),
    "damage, .2 and .2 of 50% right": damage(0.5, 0.2, 0.2),
    "damage, .2 and .2, other problems": damage(0.5, 0.2, 0.2, shared=0.0),
    "fix, .2 and .2 of 20% wrong": damage(0.2, 0.2, 0.2),
    "damage, .3 and .3, less if easy": damage(0.5, 0.3, 0.3, icc=0.6),
}
"""Comparisons without a difference."""

DIFFERENCES: dict[str, Design] = {
    "accuracy, .5 and .3": accuracies(0.5, 0.3),
    "gain, fix .4, damage .1": gain(0.5, 0.4, 0.1),
    "damage, .3 and .1 of 50% right": damage(0.5, 0.3, 0.1),
}


def shares(design: Design, n_problems: int, n: int) -> tuple[float, float, float]:
    """Return the shares of 95% intervals that contain the truth, and of p-values below 0.05 and below 0.01."""
    tables, truth = design(n_problems, n)
    tables = tables[(tables.sum(axis=1)[:, [1, 3]] > 0).all(axis=1)]  # others are printed as undefined
    is_binary = not (tables % 1).any()
    found = [coverage(*difference_limits(tables, is_binary), truth)]
    for level in (0.95, 0.99):
        found.append(1 - coverage(*difference_limits(tables, is_binary, level), 0.0))
    return found[0], found[1], found[2]


def main() -> None:
    print("coverage of 95% intervals | share of p-values below 0.05 | below 0.01, in percent")
    for name, design in (DESIGNS | DIFFERENCES).items():
        for n in ANSWERS:
            cells = []
            for n_problems in SIZES:
                cells.append(" / ".join(f"{100 * share:.1f}" for share in shares(design, n_problems, n)))
            print(f"| {name}; {n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
