"""A policy whose work is shared by all ranks: each samples and scores its own prompts, and all get everything."""

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
    """Prompts are dealt in turn: number i goes to rank i modulo the number of ranks. A sample depends on its prompt's seed
    alone, so it does not matter who draws it.

    `refresh` brings new weights to every rank's own policy before it hears of them. Only the first `n_sampling` ranks
    sample (by default all); the others are sent what was drawn. All exchanges but those of `refresh` go over the ranks'
    sampling group. What only a trained policy has (`publish`, ...) is asked of `policy`, which must have it then.
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
        """Yield this rank's groups as they are finished, then those of the others.

        All ranks must ask for the same, and go on to the end. A UserError on one rank is raised on all."""
        before = getattr(self.policy, "n_overlong", 0)
        own: dict[int, Group] = {}
        fault: UserError | None = None
        mine = self._mine(len(prompts))
        try:
            if mine:
                for k, group in self.policy.groups([prompts[i] for i in mine], n, sampling):
                    own[mine[k]] = group
                    yield mine[k], group
        except UserError as err:
            fault = err  # all ranks raise it, in the exchange

        def drawn() -> tuple[dict[int, Group], int]:
            if fault is not None:
                raise fault
            bare = {i: _without_prompt(group) for i, group in own.items()}
            return bare, getattr(self.policy, "n_overlong", 0) - before

        for rank, (groups, n_overlong) in enumerate(self.ranks.on_all_ranks(drawn)):
            self.n_overlong += n_overlong
            if rank != self.ranks.rank:
                for i, group in groups.items():
                    yield i, _with_prompt(group, prompts[i])

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the scores of all samples, of which each rank computes its share."""
        mine = self._mine(len(samples))

        def own() -> list[tuple[float, ...]]:
            if not mine:
                return []
            shown = None if prompts is None else [prompts[i] for i in mine]
            return self.policy.score([samples[i] for i in mine], shown)

        found: list[tuple[float, ...]] = [()] * len(samples)
        for rank, scores in enumerate(self.ranks.on_all_ranks(own)[: self.n_sampling]):
            found[rank :: self.n_sampling] = scores
        return found

    def _mine(self, n: int) -> range:
        """Return which of n things this rank works on."""
        return range(self.ranks.rank, n, self.n_sampling) if self.ranks.rank < self.n_sampling else range(0)

    def publish(self, version: int) -> None:
        """Take note that the weights have changed on all ranks."""
        assert not self._is_frozen
        self.refresh()
        self._trained.publish(version)

    def with_sampling(self, sampling: Sampling) -> DataParallelPolicy:
        """Return another policy over the same weights, shared in the same way, which samples otherwise by default."""
        return DataParallelPolicy(self._trained.with_sampling(sampling), self.ranks, n_sampling=self.n_sampling)

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Sample from the weights as they are now while this is open. Nothing has to be copied: ranks never sample from the
        weights in training, but from what `publish`, which comes after it, filled."""
        self._is_frozen = True
        try:
            yield
        finally:
            self._is_frozen = False

    def release_memory(self) -> None:
        self._trained.release_memory()


def _without_prompt(group: Group) -> Group:
    """A prompt has a verifier in it, which may not be picklable, and the others have it."""
    return tuple(replace(sample, prompt=cast(Any, None)) for sample in group)


def _with_prompt(group: Group, prompt: Prompt) -> Group:
    return tuple(replace(sample, prompt=prompt) for sample in group)
