"""What an update looked like: sums and counts while it is applied, plain numbers for the log afterwards."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from rethink.types import Group, Sample

ALARMS = {"mismatch/prob_gap": 0.01, "mismatch/exp_log_prob_gap": 1.05, "mismatch/kl": 1e-3}
"""Thresholds on the difference between sampler and trainer: mean gap of token probabilities (verl's FAQ), mean of
exp |log-prob gap| (NVIDIA NeMo RL's guide), KL in nats per token (prime-rl)."""

CAUSES = "temperature, top-p, precision of the head, dropout, padding and positions, stale weights or caches"


class Statistics:
    """Sums and counts by name, which can be added up over micro-batches, threads and ranks; an undefined mean is NaN."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.totals: dict[str, float] = defaultdict(float)
        self.largest: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def mean(self, name: str, values: Tensor) -> None:
        """Take the values into a mean."""
        self.sums[name] += float(values.sum())
        self.counts[name] += values.numel()

    def total(self, name: str, value: float) -> None:
        """Add a value to a total."""
        self.totals[name] += value

    def max(self, name: str, value: float) -> None:
        """Keep the largest value."""
        self.largest[name] = max(value, self.largest.get(name, -math.inf))

    def add(self, other: Statistics) -> None:
        """Take over what another one saw."""
        for name, value in other.sums.items():
            self.sums[name] += value
            self.counts[name] += other.counts[name]
        for name, value in other.totals.items():
            self.totals[name] += value
        for name, value in other.largest.items():
            self.max(name, value)
        self.last.update(other.last)

    def numbers(self) -> dict[str, float]:
        """Return means, totals, maxima and last values, sorted by name."""
        means = {name: self.sums[name] / n if n else math.nan for name, n in self.counts.items()}
        return dict(sorted({**means, **self.totals, **self.largest, **self.last}.items()))


def alarms(numbers: dict[str, float]) -> list[str]:
    """A line for each threshold that was passed, with the likely causes. An alarm never changes the loss."""
    return [
        f"sampler and trainer disagree: {name} is {numbers[name]:.4g}, over {limit} (look at {CAUSES})"
        for name, limit in ALARMS.items()
        if numbers.get(name, 0.0) > limit
    ]


def describe_groups(groups: Sequence[Group]) -> dict[str, float]:
    """Reward, truncation, entropy and lengths of the samples that an update was made from."""
    samples = [s for group in groups for s in group]
    judged = [s for s in samples if s.right is not None]
    rights = [[s.right for s in group if s.right is not None] for group in groups]
    tokens = [
        lp for s in samples for lp, chosen in zip(s.log_probs, s.mask, strict=True) if chosen and not math.isnan(lp)
    ]
    n_tokens = [len(s.ids) for s in samples]
    return {
        "reward": _mean([float(bool(s.right)) for s in judged]),
        "silent_groups_frac": _mean([float(len(set(r)) < 2) for r in rights if r]),
        "truncated_frac": _mean([float(s.stop == "length") for s in samples]),
        "entropy_nats": -_mean(tokens),  # the mean of -log p over sampled tokens is an unbiased estimate
        "length_tokens": _mean(n_tokens),
        "n_samples": len(samples),
        "n_not_judged": sum(s.verdict is not None and s.right is None for s in samples),
        **_transitions(samples),
    }


def _transitions(samples: Sequence[Sample]) -> dict[str, float]:
    """Fix and damage rate of refinements, from the verdicts of their drafts."""
    pairs = [(s.prompt.draft.right, s.right) for s in samples if s.prompt.draft is not None and s.right is not None]
    if not pairs:
        return {}
    return {
        "fix": _mean([float(after) for before, after in pairs if before is False]),
        "damage": _mean([float(not after) for before, after in pairs if before is True]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
