"""Where the seconds and the tokens of a problem batch go, measured from outside the method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rethink.policies.base import Policy, PolicyWrapper
from rethink.types import Group, Prompt, Sample, Sampling

STAGES = ("sample_s", "grade_s", "update_s")
COUNTS = ("n_sampled_tokens", "n_role_tokens", "n_role_cut")
"""Tokens that the policy sampled, whatever became of them, and those that other roles (teacher, initial) sampled; and how
many replies of other roles were cut at their cap."""


class Meter:
    """Seconds by stage, and what was sampled, since the last `take`."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.counts = dict.fromkeys(COUNTS, 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def add(self, other: Meter) -> None:
        """Add what another one has measured."""
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds
        for name, n in other.counts.items():
            self.counts[name] += n

    def read_and_reset(self) -> dict[str, float]:
        taken = {**self.counts, **self.seconds}
        self.seconds, self.counts = dict.fromkeys(STAGES, 0.0), dict.fromkeys(COUNTS, 0)
        return taken


class MeteredPolicy(PolicyWrapper):
    """A policy as the method sees it, with a meter that the method does not see. Scoring counts as sampling time."""

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
            self._count(found[1])
            yield found

    def _count(self, group: Group) -> None:
        for sample in group:
            self.meter.counts["n_role_tokens" if self.role else "n_sampled_tokens"] += sample.n_tokens or 0
            if self.role and sample.stop == "length":
                self.meter.counts["n_role_cut"] += 1

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        with self.meter.stage("sample_s"):
            return self.policy.score(samples, prompts)
