"""What strategies pass to one another: attempts at problems, and the policy and prompts that they all use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rethink.policies.base import Policy
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.types import Group, Problem, Prompt, Sample, Sampling

OVERLONG = "over-long prompts"
CUT = "candidates cut"
"""Names of the counts in `Attempt.notes`."""

PHASE_TITLES = {
    "solve": "draft",
    "refine": "refinement",
    "reflect": "reflection",
    "merge": "merged answer",
    "critique": "feedback",
    "improve": "improved answer",
    "fresh": "fresh answer",
}
"""What the replies of each phase are called, if not by the phase's name."""


@dataclass(frozen=True)
class Setup:
    """The policy, prompts and sampling settings that every strategy uses.

    `sampling` is for first answers (None: the policy's own), `refine_sampling` for everything after them (None: as first
    answers). `judge` rates answers for `best_of_n`. `n_refine` is the number of refinements of each answer in a strategy
    that ends with refining."""

    policy: Policy
    prompts: Prompts
    sampling: Sampling | None = None
    refine_sampling: Sampling | None = None
    judge: Policy | None = None
    n_refine: int = 1


@dataclass(frozen=True)
class Attempt:
    """One attempt at a problem. Strategies return changed copies.

    repeat   the number of the attempt among several at one problem; these share no samples
    answers  the current candidates; usually one at the end
    samples  every sample drawn so far, in order, `answers` included: what the attempt costs
    depth    the number of calls in sequence, each waiting for the one before
    tied     where the answer was picked at random: the candidates that it was picked from
    notes    counts for the user: candidates shown without their middle, prompts skipped as over-long
    """

    problem: Problem
    repeat: int = 0
    answers: Group = ()
    samples: Group = ()
    depth: int = 0
    tied: Group = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def finals(self) -> Group:
        """The samples whose mean verdict is the attempt's score: all tied candidates, else the answers."""
        return self.tied or self.answers

    @property
    def n_tokens(self) -> int | None:
        """Sampled tokens; None if a policy does not report them."""
        return _total([s.n_tokens for s in self.samples])

    @property
    def n_prompt_tokens(self) -> int | None:
        """Prompt tokens; a prompt counts once, however many samples were drawn for it. None if not reported."""
        prompts = {s.prompt.group: s.n_prompt_tokens for s in self.samples}
        return _total(list(prompts.values()))

    def with_answers(self, answers: Group, new: Sequence[Sample], depth: int = 1, tied: Group = ()) -> Attempt:
        """Replace the answers. `new` are the samples drawn for this, by `depth` calls in sequence."""
        return replace(self, answers=answers, samples=(*self.samples, *new), depth=self.depth + depth, tied=tied)

    def with_note(self, name: str, n: int = 1) -> Attempt:
        """Add n to a count in `notes`."""
        return replace(self, notes={**self.notes, name: self.notes.get(name, 0) + n}) if n else self


def _total(counts: Sequence[int | None]) -> int | None:
    """Return the sum, or None if any count is unknown."""
    total = 0
    for n in counts:
        if n is None:
            return None
        total += n
    return total


def start_attempt(problem: Problem, answers: Group, repeat: int = 0) -> Attempt:
    """Return an attempt with these first answers. No answers means that the prompt was over-long."""
    attempt = Attempt(problem, repeat)
    return attempt.with_answers(answers, answers) if answers else attempt.with_note(OVERLONG)


def all_answers(attempts: Sequence[Attempt]) -> list[Sample]:
    """Return the answers of all attempts, in order."""
    return [s for a in attempts for s in a.answers]


def sample_followups(setup: Setup, prompts: Sequence[Prompt], n: int = 1) -> list[Group]:
    """Return n samples of each prompt, drawn with `refine_sampling`. Make no call without prompts."""
    return setup.policy.sample(prompts, n, setup.refine_sampling or setup.sampling) if prompts else []


def reseed(prompts: Prompts, kind: Literal["repeat", "round", "stage", "member"], n: int) -> Prompts:
    """Return the prompts of repeat, round, stage or member n, counted from 0. Equal messages get other samples in each."""
    return replace(prompts, seed=stable_hash(prompts.seed, kind, n)) if n else prompts


def keep_index(old: Sample, group: Group) -> Group:
    """Give new samples the index of the sample that they replace, so later prompts about different candidates get
    different seeds."""
    return tuple(replace(s, index=old.index) for s in group)


def note_cut(setup: Setup, attempt: Attempt, shown: Sequence[Sample]) -> Attempt:
    """Count the candidates that a prompt showed without their middle."""
    return attempt.with_note(CUT, sum(setup.prompts.is_cut(s.text) for s in shown))
