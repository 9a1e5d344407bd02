"""One policy for several strategies: what one has drawn, the next is given again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rethink.policies.base import Policy, PolicyWrapper
from rethink.seeds import stable_hash
from rethink.types import Group, Message, Prompt, Sampling

PromptKey = tuple[tuple[Message, ...], int, Sampling | None]


class CachedPolicy(PolicyWrapper):
    """A policy that remembers. Strategies that begin with the same candidates then work on the very same ones, whatever
    the policy would draw a second time. For a first answer at least `n_solve` samples are drawn, of which each strategy
    sees as many as it asks for; what a strategy costs is counted from the samples it was given."""

    def __init__(self, policy: Policy, n_solve: int = 1) -> None:
        super().__init__(policy)
        self.n_solve = n_solve
        self.drawn: dict[PromptKey, Group] = {}

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield the first n samples of each prompt in order, drawn now as far as they are not there."""
        keys = [(p.messages, p.seed, sampling) for p in prompts]
        lacking: dict[tuple[int, int], dict[PromptKey, Prompt]] = {}
        for key, prompt in zip(keys, prompts, strict=True):
            have = len(self.drawn[key]) if key in self.drawn else 0
            skipped = key in self.drawn and not have
            if have < n and not skipped:
                wanted = max(n, self.n_solve) if prompt.phase == "solve" else n
                lacking.setdefault((have, wanted), {})[key] = prompt
        for (have, wanted), some in lacking.items():
            self._draw(some, have, wanted, sampling)
        for i, key in enumerate(keys):
            yield i, self.drawn[key][:n]

    def _draw(self, some: dict[PromptKey, Prompt], have: int, wanted: int, sampling: Sampling | None) -> None:
        """More samples than are there come from another seed, as a policy need not repeat itself; they are counted
        with the others, as samples of one prompt."""
        prompts = list(some.values())
        if have:
            prompts = [replace(p, seed=stable_hash(p.seed, "more", have)) for p in prompts]
        for key, group in zip(some, self.policy.sample(prompts, wanted - have, sampling), strict=True):
            more = tuple(replace(s, prompt=some[key], index=have + s.index) for s in group)
            self.drawn[key] = self.drawn.get(key, ()) + more
