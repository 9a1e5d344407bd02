"""From the rewards of one group to advantages, by formula."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def center(rewards_G: Sequence[float]) -> list[float]:
    """r - mean."""
    mean = statistics.fmean(rewards_G)
    return [r - mean for r in rewards_G]


def standardize(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-6), std with n - 1."""
    std = statistics.stdev(rewards_G)
    return [a / (std + 1e-6) for a in center(rewards_G)]


ADVANTAGES = {"center": center, "standardize": standardize}


def overlong(n_tokens: int, cap: int, buffer: int) -> float:
    """What the reward of a long reply loses (DAPO's soft overlong punishment, arXiv 2503.14476): nothing up to `buffer`
    tokens below the cap, and evenly more from there on, up to 1 at the cap. A buffer of 0 is none."""
    return max(0.0, 1 - (cap - n_tokens) / buffer) if buffer else 0.0


def check_size(name: str, n: int) -> None:
    """Raise ValueError for groups too small for a baseline."""
    if n < 2:
        raise ValueError(f"{name} must be at least 2, not {n}: a baseline compares the members of a group")
