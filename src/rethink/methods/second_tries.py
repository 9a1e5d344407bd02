"""Second tries at a problem, each of which follows one first try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rethink.types import Group, Sample


def wrong_tries(groups: Sequence[Group]) -> list[Sample]:
    """Return the samples that are wrong, without those that were not graded."""
    found: list[Sample] = []
    for group in groups:
        found += [sample for sample in group if sample.right is False]
    return found


def by_first_try(groups: Sequence[Group]) -> dict[tuple[str, int], Sample]:
    """Return second tries by the keys of the first tries that they replace."""
    found: dict[tuple[str, int], Sample] = {}
    for group in groups:
        for sample in group:
            first = sample.prompt.judged_draft
            if first is not None:
                found[first.key] = sample
    return found


def following(firsts: Group, seconds: Mapping[tuple[str, int], Sample]) -> Group:
    """Return the second tries, given by the keys of the first tries, after those of one group, in its order."""
    return tuple(seconds[first.key] for first in firsts if first.key in seconds)


def feedback_on(sample: Sample) -> str:
    """Return what the verifier says about a graded reply: its reason, or the verdict if it gives none."""
    assert sample.verdict is not None
    return sample.verdict.reason or str(sample.verdict)


def only_likely(
    samples: Sequence[Sample], log_probs: Sequence[Sequence[float]], min_log_prob: float
) -> tuple[Sample, ...]:
    """Return the samples with masks that leave out tokens whose log-probs, given for each sample, are below a limit."""
    found = []
    for sample, log_probs_T in zip(samples, log_probs, strict=True):
        mask = tuple(log_prob >= min_log_prob for log_prob in log_probs_T)
        found.append(replace(sample, mask=mask))
    return tuple(found)


def trained_frac(samples: Sequence[Sample]) -> float:
    """Return the share of the tokens that count in the loss; NaN if there are none."""
    n_tokens = sum(len(sample.ids) for sample in samples)
    return sum(sample.n_trained for sample in samples) / n_tokens if n_tokens else math.nan


def mean_reward(group: Group) -> float:
    """Return the mean reward of the samples that have one; NaN if none has."""
    rewards = [sample.reward for sample in group if sample.reward is not None]
    return sum(rewards) / len(rewards) if rewards else math.nan


def accuracy(groups: Sequence[Group]) -> float:
    """Return the share of right samples among the graded ones; NaN if there are none."""
    verdicts = [sample.right for group in groups for sample in group if sample.right is not None]
    return sum(verdicts) / len(verdicts) if verdicts else math.nan
