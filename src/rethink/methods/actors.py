"""What a method is given: the policy, the prompts, and the judge. Methods only name these; others implement them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rethink.prompts import Prompts
from rethink.types import Group, Problem, Prompt, Sample, Sampling, Update, Verdict


class Policy(Protocol):
    """Anything that can answer."""

    @property
    def version(self) -> int:
        """Rises by one whenever the weights change."""
        ...

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt, in order; an empty group for a prompt that was skipped as over-long.

        `sampling` replaces the policy's own."""
        ...

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """A given reply as a sample, as if the policy had chosen each of its tokens; no log-probs."""
        ...


@dataclass(frozen=True)
class Actors:
    """The roles of one problem batch. `judge` returns the groups with verdicts."""

    policy: Policy
    prompts: Prompts
    judge: Callable[[Sequence[Group]], list[Group]]


class Method(Protocol):
    """A method is a generator of updates: after each yield the policy has new weights."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]: ...


def judge(groups: Sequence[Group]) -> list[Group]:
    """The same groups with each sample judged by its problem's verifier; not judged where that fails."""
    return [tuple(s.judged(_verdict(s)) for s in group) for group in groups]


def _verdict(sample: Sample) -> Verdict:
    try:
        return sample.problem.judge(sample.text)
    except Exception as err:  # a verifier's failure says nothing about the answer, and must not end a run
        return Verdict(None, f"the verifier failed: {type(err).__name__}: {err}")
