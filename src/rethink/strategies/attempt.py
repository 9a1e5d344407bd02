"""What strategies pass on: an attempt per problem, and what they work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rethink.policies.base import Policy
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.types import Group, Problem, Prompt, Sample, Sampling


@dataclass(frozen=True)
class Setup:
    """What strategies work with. `sampling` draws first answers, None as the policy's own; `later` everything that looks
    back, None as first answers. `judge` is the judge that "best" asks. `n_refine` is the number of refinements of each
    answer where refining is the end of a strategy."""

    policy: Policy
    prompts: Prompts
    sampling: Sampling | None = None
    later: Sampling | None = None
    judge: Policy | None = None
    n_refine: int = 1


@dataclass(frozen=True)
class Attempt:
    """What has been made of a problem so far. Functions of this package return copies.

    `repeat` numbers attempts at the same problem, which share no samples. `answers` are the candidates as they stand: at
    the end mostly one. `tied` are the candidates among which chance chose it, where it did; what is expected of the attempt
    is their mean. `used` are all samples that were drawn on the way, in order, the answers among them, and `depth` the
    number of calls that had to wait for one another. `notes` counts what a reader should know: candidates that were shown
    cut, prompts that were skipped as over-long.
    """

    problem: Problem
    repeat: int = 0
    answers: Group = ()
    used: Group = ()
    depth: int = 0
    tied: Group = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def expected(self) -> Group:
        """The samples whose mean verdict is the attempt's."""
        return self.tied or self.answers

    @property
    def n_tokens(self) -> int | None:
        """Sampled tokens; None where a policy does not state them."""
        return _total([s.n_tokens for s in self.used])

    @property
    def n_prompt_tokens(self) -> int | None:
        """Tokens shown: each prompt once, however many samples were drawn for it."""
        prompts = {s.prompt.group: s.n_prompt_tokens for s in self.used}
        return _total(list(prompts.values()))

    def answered(self, answers: Group, used: Sequence[Sample], depth: int = 1, tied: Group = ()) -> Attempt:
        """With new answers in place of the old ones, after further samples and so many further calls."""
        return replace(self, answers=answers, used=(*self.used, *used), depth=self.depth + depth, tied=tied)

    def noted(self, name: str, n: int = 1) -> Attempt:
        """With a count raised, if n is not 0."""
        return replace(self, notes={**self.notes, name: self.notes.get(name, 0) + n}) if n else self


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum, None where one of the numbers is not known."""
    total = 0
    for n in counts:
        if n is None:
            return None
        total += n
    return total


OVERLONG = "over-long prompts"
CUT = "candidates cut"


def answers_of(attempts: Sequence[Attempt]) -> list[Sample]:
    """All answers, in order."""
    return [s for a in attempts for s in a.answers]


def draw(setup: Setup, prompts: Sequence[Prompt], n: int = 1) -> list[Group]:
    """Return n samples each of what looks back; no call where there is nothing to ask."""
    return setup.policy.sample(prompts, n, setup.later or setup.sampling) if prompts else []


def reseeded(texts: Prompts, kind: Literal["repeat", "round", "stage"], n: int) -> Prompts:
    """Return the prompts of the n-th repeat, round or stage, from 0: no two draw the same samples for the same messages."""
    return replace(texts, seed=stable_hash(texts.seed, kind, n)) if n else texts


def in_place_of(old: Sample, group: Group) -> Group:
    """A sample that takes the place of another keeps its index, so that what is drawn next differs between candidates."""
    return tuple(replace(s, index=old.index) for s in group)


def count_cut(setup: Setup, attempt: Attempt, shown: Sequence[Sample]) -> Attempt:
    return attempt.noted(CUT, sum(setup.prompts.is_cut(s.text) for s in shown))
