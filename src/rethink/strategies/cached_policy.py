"""One policy for several strategies: what one has drawn, the next is given again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethink.policies.base import Policy
from rethink.seeds import stable_hash
from rethink.types import Group, Message, Prompt, Sample, Sampling

Key = tuple[tuple[Message, ...], int, Sampling | None]


class Shared:
    """A policy that remembers. Strategies that begin with the same candidates then work on the very same ones, whatever
    the policy would draw a second time. For a first answer at least `n_solve` samples are drawn, of which each strategy
    sees as many as it asks for; what a strategy costs is counted from the samples it was given."""

    def __init__(self, policy: Policy, n_solve: int = 1) -> None:
        self.policy = policy
        self.n_solve = n_solve
        self.drawn: dict[Key, Group] = {}
        self.skipped: set[Key] = set()

    @property
    def version(self) -> int:
        return self.policy.version

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """The first n samples of each prompt; drawn now as far as they are not there."""
        keys = [(p.messages, p.seed, sampling) for p in prompts]
        lacking: dict[tuple[int, int], dict[Key, Prompt]] = {}
        for key, prompt in zip(keys, prompts, strict=True):
            wanted = max(n, self.n_solve) if prompt.phase == "solve" else n
            have = len(self.drawn[key]) if key in self.drawn else 0
            if have < n and key not in self.skipped:
                lacking.setdefault((have, wanted), {})[key] = prompt
        for (have, wanted), some in lacking.items():
            self._draw(some, have, wanted, sampling)
        return [self.drawn[key][:n] if key not in self.skipped else () for key in keys]

    def _draw(self, some: dict[Key, Prompt], have: int, wanted: int, sampling: Sampling | None) -> None:
        """More samples than are there come from a seed of their own, as a policy need not repeat itself; they are counted
        with the others, as samples of one prompt."""
        prompts = [replace(p, seed=stable_hash(p.seed, "more", have)) if have else p for p in some.values()]
        for key, group in zip(some, self.policy.sample(prompts, wanted - have, sampling), strict=True):
            if not group:
                self.skipped.add(key)
            more = tuple(replace(s, prompt=some[key], index=have + s.index) for s in group)
            self.drawn[key] = (self.drawn[key] if have else ()) + more

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return self.policy.transcribe(prompt, reply)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return self.policy.splice(sample, text)
