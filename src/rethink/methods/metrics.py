"""Means and shares that methods log or compare with. Undefined ones are NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from rethink.types import Group, Sample


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN if there are no values.

    >>> mean([True, False]), mean([])
    (0.5, nan)
    """
    return fmean(values) if values else math.nan


def accuracy(groups: Sequence[Group]) -> float:
    """Return the share of right samples among the graded ones."""
    return mean([sample.right for group in groups for sample in group if sample.right is not None])


def mean_reward(group: Group) -> float:
    """Return the mean reward of the samples that have one."""
    return mean([sample.reward for sample in group if sample.reward is not None])


def trained_frac(samples: Sequence[Sample]) -> float:
    """Return the share of the tokens that count in the loss."""
    n_tokens = sum(len(sample.ids) for sample in samples)
    return sum(sample.n_trained for sample in samples) / n_tokens if n_tokens else math.nan
