"""Second tries at a problem, each of which follows one first try."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rethink.types import Group, Sample


def by_first_try(groups: Sequence[Group]) -> dict[tuple[str, int], Sample]:
    """Return second tries by the keys of the first tries that they replace."""
    found: dict[tuple[str, int], Sample] = {}
    for group in groups:
        for sample in group:
            first = sample.prompt.judged_draft
            if first is not None:
                found[first.key] = sample
    return found


def feedback_on(sample: Sample) -> str:
    """Return what the verifier says about a graded reply: its reason, or the verdict if it gives none."""
    assert sample.verdict is not None
    return sample.verdict.reason or str(sample.verdict)


def mean_reward(group: Group) -> float:
    """Return the mean reward of the samples that have one; NaN if none has."""
    rewards = [sample.reward for sample in group if sample.reward is not None]
    return sum(rewards) / len(rewards) if rewards else math.nan


def accuracy(groups: Sequence[Group]) -> float:
    """Return the share of right samples among the graded ones; NaN if there are none."""
    verdicts = [sample.right for group in groups for sample in group if sample.right is not None]
    return sum(verdicts) / len(verdicts) if verdicts else math.nan
