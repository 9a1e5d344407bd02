"""Formulas that turn the rewards of one group into advantages."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def center(rewards_G: Sequence[float]) -> list[float]:
    """Return r - mean; exactly 0 for equal rewards, whose mean may differ from them by rounding."""
    if min(rewards_G) == max(rewards_G):
        return [0.0] * len(rewards_G)
    mean = statistics.fmean(rewards_G)
    return [r - mean for r in rewards_G]


def standardize(rewards_G: Sequence[float]) -> list[float]:
    """Return (r - mean) / (std + 1e-6), where std divides by n - 1."""
    std = statistics.stdev(rewards_G)
    return [a / (std + 1e-6) for a in center(rewards_G)]


ADVANTAGES = {"center": center, "standardize": standardize}


def overlong_penalty(n_tokens: int, cap: int, buffer: int) -> float:
    """Return the penalty to subtract from a long reply's reward (DAPO's soft overlong punishment, arXiv 2503.14476).

    The penalty is 0 up to `buffer` tokens below the cap, and then rises linearly to 1 at the cap. A buffer of 0 means
    no penalty.

    >>> [overlong_penalty(n, cap=100, buffer=20) for n in (50, 80, 90, 100)]
    [0.0, 0.0, 0.5, 1.0]
    """
    return max(0.0, 1 - (cap - n_tokens) / buffer) if buffer else 0.0


def check_group_size(name: str, n: int) -> None:
    """Raise ValueError if groups of n samples are too small for a baseline."""
    if n < 2:
        raise ValueError(f"{name} must be at least 2, not {n}: a baseline compares the members of a group")
