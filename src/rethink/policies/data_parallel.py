"""A policy that splits prompts over the ranks: each rank samples and scores its own share, and gets all results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from rethink.distributed import Ranks
from rethink.errors import UserError
from rethink.policies.base import Policy, PolicyWrapper
from rethink.types import Group, Prompt, Sample, Sampling


class DataParallelPolicy(PolicyWrapper):
    """Prompt i goes to rank i modulo the number of ranks. A sample depends only on its prompt's seed, so it does not
    matter which rank draws it.

    `refresh` brings new weights to this rank's policy; `publish` calls it before it passes the version on. Only the first
    `n_sampling` ranks sample (by default all); the others receive the samples. Exchanges use the ranks' sampling group,
    except those in `refresh`. `publish`, `with_sampling` and `release_memory` need a trained policy.
    """

    def __init__(
        self, policy: Policy, ranks: Ranks, refresh: Callable[[], object] = lambda: None, n_sampling: int | None = None
    ) -> None:
        super().__init__(policy)
        self.ranks = ranks.sampling_group
        self.refresh = refresh
        self.n_sampling = n_sampling or ranks.size
        self.n_overlong = 0
        self._trained: Any = policy
        self._is_frozen = False

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield this rank's groups as they are finished, then the groups of the other ranks.

        All ranks must call this with the same arguments and iterate to the end. A UserError on one rank is raised on all
        ranks."""
        before = getattr(self.policy, "n_overlong", 0)
        own: dict[int, Group] = {}
        error: UserError | None = None
        indices = self._own_indices(len(prompts))
        try:
            if indices:
                for k, group in self.policy.groups([prompts[i] for i in indices], n, sampling):
                    own[indices[k]] = group
                    yield indices[k], group
        except UserError as err:
            error = err  # the exchange raises it on all ranks

        def own_result() -> tuple[dict[int, Group], int]:
            if error is not None:
                raise error
            without_prompts = {i: _without_prompt(group) for i, group in own.items()}
            return without_prompts, getattr(self.policy, "n_overlong", 0) - before

        for rank, (groups, n_overlong) in enumerate(self.ranks.on_all_ranks(own_result)):
            self.n_overlong += n_overlong
            if rank != self.ranks.rank:
                for i, group in groups.items():
                    yield i, _with_prompt(group, prompts[i])

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the log-probs of all samples; each rank computes its share."""
        indices = self._own_indices(len(samples))

        def own_scores() -> list[tuple[float, ...]]:
            if not indices:
                return []
            own_prompts = None if prompts is None else [prompts[i] for i in indices]
            return self.policy.score([samples[i] for i in indices], own_prompts)

        found: list[tuple[float, ...]] = [()] * len(samples)
        for rank, scores in enumerate(self.ranks.on_all_ranks(own_scores)[: self.n_sampling]):
            found[rank :: self.n_sampling] = scores
        return found

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        """Return all samples, continued; each rank continues its share. All ranks must call this."""
        before = getattr(self.policy, "n_overlong", 0)
        indices = self._own_indices(len(samples))

        def own_result() -> tuple[list[Group], int]:
            groups: list[Group] = []
            for sample in self.policy.extend([samples[i] for i in indices], [texts[i] for i in indices], sampling):
                groups.append(_without_prompt(() if sample is None else (sample,)))
            return groups, getattr(self.policy, "n_overlong", 0) - before

        found: list[Sample | None] = [None] * len(samples)
        for rank, (groups, n_overlong) in enumerate(self.ranks.on_all_ranks(own_result)[: self.n_sampling]):
            self.n_overlong += n_overlong
            for i, group in zip(range(rank, len(samples), self.n_sampling), groups, strict=True):
                for sample in _with_prompt(group, samples[i].prompt):
                    found[i] = sample
        return found

    def _own_indices(self, n: int) -> range:
        """Return the indices of the items, out of n, that this rank works on."""
        return range(self.ranks.rank, n, self.n_sampling) if self.ranks.rank < self.n_sampling else range(0)

    def publish(self, version: int) -> None:
        """Bring the trained weights to this rank's policy, as a new version. All ranks must call this."""
        assert not self._is_frozen
        self.refresh()
        self._trained.publish(version)

    def with_sampling(self, sampling: Sampling) -> DataParallelPolicy:
        """Return a policy over the same weights and ranks with another default sampling."""
        return DataParallelPolicy(self._trained.with_sampling(sampling), self.ranks, n_sampling=self.n_sampling)

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Keep the sampler's weights unchanged while the context is open.

        Nothing has to be copied: ranks sample from a replica, which only `publish` fills."""
        self._is_frozen = True
        try:
            yield
        finally:
            self._is_frozen = False

    def release_memory(self) -> None:
        self._trained.release_memory()


def _without_prompt(group: Group) -> Group:
    """Return the samples without their prompt: its verifier may not be picklable, and the other ranks have it."""
    return tuple(replace(sample, prompt=cast(Any, None)) for sample in group)


def _with_prompt(group: Group, prompt: Prompt) -> Group:
    return tuple(replace(sample, prompt=prompt) for sample in group)
