"""Seconds and sampled tokens of a problem batch, measured outside the method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rethink.policies.base import Policy, PolicyWrapper
from rethink.policies.edits import n_sampled
from rethink.types import Group, Prompt, Sample, Sampling

STAGES = ("sample_s", "grade_s", "update_s")
COUNTS = ("n_sampled_tokens", "n_role_tokens")
"""Tokens sampled by the policy, trained or not; tokens sampled by other roles (teacher, judge, initial)."""


class Meter:
    """Seconds by stage and sampled tokens since the last `read_and_reset`."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.counts = dict.fromkeys(COUNTS, 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds until the context ends to this stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def add(self, other: Meter) -> None:
        """Add the values of another meter."""
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds
        for name, n in other.counts.items():
            self.counts[name] += n

    def read_and_reset(self) -> dict[str, float]:
        """Return all counts and seconds by name, and set them to 0."""
        values = {**self.counts, **self.seconds}
        self.seconds, self.counts = dict.fromkeys(STAGES, 0.0), dict.fromkeys(COUNTS, 0)
        return values


class MeteredPolicy(PolicyWrapper):
    """A policy measured by `meter`. Scoring counts as sampling time; `role` marks policies that are not trained."""

    def __init__(self, policy: Policy, meter: Meter, *, role: bool = False) -> None:
        super().__init__(policy)
        self.meter = meter
        self.role = role

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        groups = self.policy.groups(prompts, n, sampling)
        while True:
            with self.meter.stage("sample_s"):
                found = next(groups, None)
            if found is None:
                return
            for sample in found[1]:
                self._count(sample.n_tokens or 0)
            yield found

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        with self.meter.stage("sample_s"):
            found = self.policy.extend(samples, texts, sampling)
        for before, after in zip(samples, found, strict=True):
            if after is not None:
                self._count(n_sampled(after) - n_sampled(before) + (after.stop == "stop"))
        return found

    def _count(self, n_new: int) -> None:
        self.meter.counts["n_role_tokens" if self.role else "n_sampled_tokens"] += n_new

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        with self.meter.stage("sample_s"):
            return self.policy.score(samples, prompts)
