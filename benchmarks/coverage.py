"""How often 95% intervals hold the truth, by simulation: the tables of docs/evaluation.md, in percent.

    python benchmarks/coverage.py

The designs' data are those of tests/test_coverage.py, which checks some of them on every run. Seeds are fixed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_coverage import fixes, gap_coverage, rate_coverage, two_arms

RATES = [(30, 1, 0), (50, 4, 0.3), (50, 64, 0.6), (100, 1, 0), (100, 64, 0.3), (200, 64, 0.3), (500, 4, 0.3)]
"""Problems, answers, correlation of two answers to one problem."""

ARMS = [(1, 0.5, 0.4), (4, 0.3, 0.2), (64, 0.6, 0.5)]
"""Answers, and the rates of two arms, whose difficulties correlate by 0.9; two answers to one problem by 0.3."""

FIX = (4, 0.6, 0.5, 0.3, 0.5, 0.3)
"""Drafts, rates of right ones, correlation of two drafts, and the chance of a fix over that of a right draft, per arm."""

SIZES = (10, 30, 50, 100, 200, 500)


def line(name: str, shares: Iterable[float]) -> str:
    return f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |"


def agreeing(n_problems: int, differing: float, repeats: int) -> float:
    """Coverage for two arms with one answer each, of which the second loses some of what the first has right."""
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
    for differing in (0.02, 0.05):
        print(line(f"{differing} differ", [agreeing(size, differing, 4000) for size in SIZES]), flush=True)


if __name__ == "__main__":
    main()
