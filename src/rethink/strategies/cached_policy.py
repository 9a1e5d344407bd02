"""A policy that remembers its samples, so several strategies share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rethink.policies.base import Policy, PolicyWrapper
from rethink.seeds import stable_hash
from rethink.types import Group, Message, Prompt, Sampling

PromptKey = tuple[tuple[Message, ...], int, Sampling | None]


class CachedPolicy(PolicyWrapper):
    """Return the same samples for the same prompt, even if the policy would draw others the second time.

    A solve prompt gets at least `n_solve` samples; each caller sees as many as it asks for. So all strategies start from
    the same first answers, and each is charged only for the samples that it was given."""

    def __init__(self, policy: Policy, n_solve: int = 1) -> None:
        super().__init__(policy)
        self.n_solve = n_solve
        self.cache: dict[PromptKey, Group] = {}

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield (i, the first n samples of prompt i), in order; draw what the cache lacks."""
        keys = [(p.messages, p.seed, sampling) for p in prompts]
        lacking: dict[tuple[int, int], dict[PromptKey, Prompt]] = {}
        for key, prompt in zip(keys, prompts, strict=True):
            n_cached = len(self.cache[key]) if key in self.cache else 0
            skipped = key in self.cache and not n_cached
            if n_cached < n and not skipped:
                wanted = max(n, self.n_solve) if prompt.phase == "solve" else n
                lacking.setdefault((n_cached, wanted), {})[key] = prompt
        for (n_cached, wanted), prompts_by_key in lacking.items():
            self._fill(prompts_by_key, n_cached, wanted, sampling)
        for i, key in enumerate(keys):
            yield i, self.cache[key][:n]

    def _fill(
        self, prompts_by_key: dict[PromptKey, Prompt], n_cached: int, wanted: int, sampling: Sampling | None
    ) -> None:
        """Draw the missing samples of prompts that have `n_cached` each.

        They come from another seed, because a policy may not repeat the first ones; the cache stores all of them as
        samples of one prompt."""
        prompts = list(prompts_by_key.values())
        if n_cached:
            prompts = [replace(p, seed=stable_hash(p.seed, "more", n_cached)) for p in prompts]
        groups = self.policy.sample(prompts, wanted - n_cached, sampling)
        for (key, prompt), group in zip(prompts_by_key.items(), groups, strict=True):
            more = tuple(replace(s, prompt=prompt, index=n_cached + s.index) for s in group)
            self.cache[key] = self.cache.get(key, ()) + more
