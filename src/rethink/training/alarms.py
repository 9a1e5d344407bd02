"""Alarms of an update, in words. They are logged, printed and shown on the run's page, and never change the loss.

The text before the first ": " is the kind of an alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from rethink.evaluation.bounds import GOLD, count_kinds, kind_of
from rethink.objectives import Update, rewards_by_group
from rethink.types import Group, Sample

LIMITS = {"mismatch/prob_gap": 0.01, "mismatch/exp_log_prob_gap": 1.05, "mismatch/kl": 1e-3}
"""Limits on the mismatch between sampler and trainer: mean gap of token probabilities (verl's FAQ), mean of
exp |log-prob gap| (NVIDIA NeMo RL's guide), KL in nats per token (prime-rl)."""

CAUSES = "temperature, top-p, precision of the head, dropout, padding and positions, stale weights or caches"
NOTHING_TRAINED = "nothing was trained"
NOT_GRADED = "replies were not graded"
NOT_GRADED_FRAC = 0.1
"""The share of ungraded replies above which an update has another alarm. Replies whose gold answer cannot be read do not
count, because that is not the policy's doing."""
MANY_NOT_GRADED = f"over {NOT_GRADED_FRAC:.0%} of the replies were not graded"


def find_alarms(update: Update, numbers: Mapping[str, float]) -> list[str]:
    """Return the alarms of an update that was just trained, from its samples and metrics."""
    found = mismatches(numbers)
    reasons = why_ungraded(update.groups)
    if not (numbers.get("grad_norm", 0.0) > 0 and numbers["lr"] > 0):
        found.append(f"{NOTHING_TRAINED}: {_why_nothing(update, numbers, reasons)}")
    elif reasons:
        found.append(_ungraded_share(reasons, sum(map(len, update.groups))))
    return found


def _ungraded_share(reasons: Sequence[str], n_samples: int) -> str:
    """Return the alarm of an update with ungraded replies. They are left out of the group's mean and of the loss, so a
    policy can avoid the penalty of wrong answers with replies that cannot be graded.
    """
    own = [reason for reason in reasons if kind_of(reason) != GOLD]
    if len(own) <= NOT_GRADED_FRAC * n_samples:
        return f"{NOT_GRADED}: {len(reasons)} of {n_samples} (first reason: {reasons[0]})"
    kinds = ", ".join(f"{n} {kind}" for kind, n in count_kinds(Counter(own)).items())
    return (
        f"{MANY_NOT_GRADED}: {len(own)} of {n_samples} ({kinds}; first reason: {own[0]}). Such replies are not trained on, "
        "so the policy may learn to write them instead of wrong ones: read some in samples.jsonl"
    )


def mismatches(numbers: Mapping[str, float]) -> list[str]:
    """Return a line, with the likely causes, for each limit that is exceeded."""
    found = []
    for name, limit in LIMITS.items():
        value = numbers.get(name, 0.0)
        if value > limit:
            found.append(f"sampler and trainer disagree: {name} is {value:.4g}, over {limit} (check {CAUSES})")
    return found


def why_ungraded(groups: Sequence[Group]) -> list[str]:
    """Return the reason for each sample that was graded without success. Such samples are not trained on."""
    reasons: list[str] = []
    for group in groups:
        for sample in group:
            if sample.verdict is not None and sample.reward is None:
                reasons.append(sample.why_no_reward())
    return reasons


def _why_nothing(update: Update, numbers: Mapping[str, float], reasons: Sequence[str]) -> str:
    samples: list[Sample] = []
    for group in update.groups:
        samples += group
    if numbers["lr"] == 0:
        return "the learning rate is 0"
    if not samples:
        n = len(update.groups)
        return f"all {n} prompts were too long (sampler.max_prompt_tokens)" if n else "the update has no samples"
    if len(reasons) == len(samples):
        return f"none of the {len(samples)} replies was graded (first reason: {reasons[0]})"
    causes: list[str] = []
    n_cut = sum(sample.stop == "length" for sample in samples)
    if 2 * n_cut > len(samples):
        causes.append(f"{n_cut} of {len(samples)} replies were cut at max_tokens")
    rewards = rewards_by_group(update.groups, update.rewards)
    if not any(len(set(group)) > 1 for group in rewards):
        values = set(chain.from_iterable(rewards))
        shown = f"all are {values.pop():g}" if len(values) == 1 else "they differ between groups only"
        causes.append(f"the replies to a prompt have equal rewards in every group ({shown})")
    if reasons:
        causes.append(f"{len(reasons)} of {len(samples)} replies were not graded (first reason: {reasons[0]})")
    return "; ".join(causes) or "the gradient is 0"
