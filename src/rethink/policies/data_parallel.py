"""A policy whose work is shared by all ranks: each samples and judges its own prompts, and all get all samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from rethink.distributed import Ranks
from rethink.policies.base import Policy
from rethink.types import Group, Prompt, Sample, Sampling, Verdict

P = TypeVar("P", bound=Policy)

Judge = Callable[[Sequence[Group]], list[Group]]


class SharedPolicy(Generic[P]):
    """Prompts are dealt in turn. A sample depends on its prompt's seed alone, so that it does not matter who draws it.
    `refresh` brings new weights to every rank's own policy before it is told of them. Only the first `n_drawing` ranks draw
    (by default all); the others hear what was drawn. All exchanges but those of `refresh` are made aside."""

    def __init__(
        self, policy: P, ranks: Ranks, refresh: Callable[[], object] = lambda: None, n_drawing: int | None = None
    ) -> None:
        self.policy = policy
        self.ranks = ranks.aside
        self.refresh = refresh
        self.n_drawing = n_drawing or ranks.size
        self.n_overlong = 0
        self.on_group: Callable[[Group], None] | None = None
        self._drawn_by: dict[str, int] = {}
        self._held = False

    @property
    def version(self) -> int:
        return self.policy.version

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt, in order, the same on all ranks."""
        size = self.n_drawing
        own: list[Group] = []

        def draw() -> tuple[list[Group], int]:
            mine = prompts[self.ranks.rank :: size] if self.ranks.rank < size else []
            own[:], n_overlong = self._draw(mine, n, sampling) if mine else ([], 0)
            return [tuple(map(_without_prompt, group)) for group in own], n_overlong

        groups: list[Group] = [()] * len(prompts)
        for rank, (theirs, n_overlong) in enumerate(self.ranks.each(draw)[:size]):
            asked = prompts[rank::size]
            self.n_overlong += n_overlong
            if size == self.ranks.size:
                self._drawn_by.update((prompt.group, rank) for prompt in asked)
            groups[rank::size] = own if rank == self.ranks.rank else [*map(_with_prompt, asked, theirs)]
        return groups

    def _draw(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None) -> tuple[list[Group], int]:
        """This rank's groups, and how many prompts were over-long."""
        policy: Any = self.policy
        before = getattr(policy, "n_overlong", 0)
        if self.on_group is not None:
            policy.on_group = self.on_group
        groups: list[Group] = policy.sample(prompts, n, sampling)
        return groups, getattr(policy, "n_overlong", 0) - before

    def publish(self, version: int) -> None:
        """The weights have changed on all ranks."""
        assert not self._held
        self.refresh()
        cast(Any, self.policy).publish(version)

    def with_sampling(self, sampling: Sampling) -> SharedPolicy[Any]:
        """Another policy over the same weights, shared in the same way, which samples otherwise by default."""
        return SharedPolicy(cast(Any, self.policy).with_sampling(sampling), self.ranks, n_drawing=self.n_drawing)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is open, samples come from the weights as they are now, though another thread trains. Nothing has to be
        copied: ranks never sample from the weights in training, but from what `publish`, which comes after it, filled."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def rest(self) -> None:
        """Memory may go to the trainer until the next `publish` or `sample`."""
        cast(Any, self.policy).rest()

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return self.policy.transcribe(prompt, reply)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return self.policy.splice(sample, text)

    def judging(self, judge: Judge) -> Judge:
        """A judge whose work is shared: the rank that drew a group judges it, others go in turn."""

        def shared(groups: Sequence[Group]) -> list[Group]:
            owners = [self._owner(i, group) for i, group in enumerate(groups)]
            own = judge([g for g, owner in zip(groups, owners, strict=True) if owner == self.ranks.rank])
            gathered = self.ranks.gather([[s.verdict for s in group] for group in own])
            verdicts = [iter(theirs) for theirs in gathered]
            return [_judged(group, next(verdicts[owner])) for group, owner in zip(groups, owners, strict=True)]

        return shared

    def forget(self) -> None:
        """A new problem batch begins: who drew the groups of the last one is no longer of interest."""
        self._drawn_by.clear()

    def _owner(self, i: int, group: Group) -> int:
        return self._drawn_by.get(group[0].prompt.group, i % self.ranks.size) if group else i % self.ranks.size


def _without_prompt(sample: Sample) -> Sample:
    """A prompt has a verifier in it, which may not be picklable, and the others have it."""
    return replace(sample, prompt=cast(Any, None))


def _with_prompt(prompt: Prompt, group: Group) -> Group:
    return tuple(replace(s, prompt=prompt) for s in group)


def _judged(group: Group, verdicts: Sequence[Verdict | None]) -> Group:
    return tuple(s if v is None else s.judged(v) for s, v in zip(group, verdicts, strict=True))
