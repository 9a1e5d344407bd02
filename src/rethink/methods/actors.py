"""What a method is given: the policy, the prompts, and the judge. Methods only name these; others implement them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """The sample with a text behind it, in place of its end token, as if the policy had gone on like that: ids of the
        sample stay, those of the text and a new end token are marked as forced. None if that is over the sample's cap."""
        ...


def _no_role(name: str) -> Policy:
    raise ValueError(f"there is no {name} here")


@dataclass(frozen=True)
class Actors:
    """The roles of one problem batch. `judge` returns the groups with verdicts; `role` opens "teacher" and "initial" (the
    frozen start weights), policies that are not trained. `state` is what a method remembers from batch to batch: plain
    data, saved with each checkpoint and restored from it."""

    policy: Policy
    prompts: Prompts
    judge: Callable[[Sequence[Group]], list[Group]]
    role: Callable[[Literal["teacher", "initial"]], Policy] = _no_role
    state: dict[str, Any] = field(default_factory=dict)


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
