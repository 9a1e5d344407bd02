"""Metrics of an update: statistics collected while it is trained, rewards and lengths of its samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from rethink.objectives import rewards_by_group
from rethink.types import REFINING, Group, Sample


class Statistics:
    """Means, totals and maxima by name, which add up over micro-batches, threads and ranks. An undefined mean is NaN."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.totals: dict[str, float] = defaultdict(float)
        self.largest: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def mean(self, name: str, values: Tensor) -> None:
        """Add values to the mean of this name."""
        self.sums[name] += float(values.sum())
        self.counts[name] += values.numel()

    def total(self, name: str, value: float) -> None:
        """Add a value to the total of this name."""
        self.totals[name] += value

    def max(self, name: str, value: float) -> None:
        """Update the maximum of this name."""
        self.largest[name] = max(value, self.largest.get(name, -math.inf))

    def add(self, other: Statistics) -> None:
        """Add the statistics of another micro-batch, thread or rank."""
        for name, value in other.sums.items():
            self.sums[name] += value
            self.counts[name] += other.counts[name]
        for name, value in other.totals.items():
            self.totals[name] += value
        for name, value in other.largest.items():
            self.max(name, value)
        self.last.update(other.last)

    def metrics(self) -> dict[str, float]:
        """Return means, totals, maxima and last values, sorted by name."""
        means = {name: self.sums[name] / n if n else math.nan for name, n in self.counts.items()}
        return dict(sorted({**means, **self.totals, **self.largest, **self.last}.items()))


def describe_groups(groups: Sequence[Group], learned_from: Sequence[tuple[float, ...]] = ()) -> dict[str, float]:
    """Return mean reward and its terms, accuracy, truncation, entropy [nats] and length [tokens] of an update's samples.

    `learned_from` has the rewards that the update learns from, by group, if they are not the samples' own."""
    rewards: list[float] = []
    terms: dict[str, list[float]] = {}
    verdicts: list[float] = []
    truncated: list[float] = []
    log_probs: list[float] = []
    lengths: list[int] = []
    fixed: list[float] = []
    damaged: list[float] = []
    n_not_graded = 0
    has_refinements = False
    for group in groups:
        for sample in group:
            truncated.append(float(sample.stop == "length"))
            lengths.append(len(sample.ids))
            for log_prob, is_chosen in zip(sample.log_probs, sample.mask, strict=True):
                if is_chosen and not math.isnan(log_prob):
                    log_probs.append(log_prob)
            if sample.reward is None:
                n_not_graded += sample.verdict is not None
            else:
                rewards.append(sample.reward)
            for term in sample.terms:
                if term.value is not None:
                    terms.setdefault(f"reward/{term.name}", []).append(term.value)
            if sample.right is None:
                continue
            verdicts.append(float(sample.right))
            has_refinements = has_refinements or sample.prompt.draft is not None
            draft = sample.prompt.judged_draft
            if draft is not None and draft.right:
                damaged.append(float(not sample.right))
            elif draft is not None:
                fixed.append(float(sample.right))
    compared = rewards_by_group(groups, learned_from)
    numbers = {
        "reward": _mean(rewards),
        "accuracy": _mean(verdicts),
        "zero_std_groups_frac": _mean([float(len(set(group)) < 2) for group in compared]),
        "truncated_frac": _mean(truncated),
        "entropy_nats": -_mean(log_probs),  # the mean of -log p over sampled tokens is unbiased
        "length_tokens": _mean(lengths),
        "n_samples": len(lengths),
        "n_not_graded": n_not_graded,
    }
    for name, values in terms.items():
        numbers[name] = _mean(values)
    if has_refinements:
        numbers |= {"fix": _mean(fixed), "damage": _mean(damaged)}
    return numbers | _accuracy_by_turn(groups)


def _accuracy_by_turn(groups: Sequence[Group]) -> dict[str, float]:
    """Return the accuracy of each turn, if there are several: of first answers, of revisions of these, and so on.

    Replies between two answers, such as checks, are no turns. Merged answers have no turn: they revise no single one."""
    rights: dict[int, list[float]] = {}
    for group in groups:
        for sample in group:
            is_merged = sample.prompt.draft is None and sample.prompt.phase in REFINING
            if sample.right is not None and not is_merged:
                rights.setdefault(_turn(sample), []).append(float(sample.right))
    if len(rights) < 2:
        return {}
    return {f"accuracy/turn_{number}": _mean(values) for number, values in sorted(rights.items())}


def _turn(sample: Sample) -> int:
    """Return the number of a graded reply in its chain of graded replies, from 1."""
    number, draft = 1, sample.prompt.draft
    while draft is not None:
        number += draft.verdict is not None
        draft = draft.prompt.draft
    return number


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
