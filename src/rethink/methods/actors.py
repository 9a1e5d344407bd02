"""What a method works with: the policy, the prompts, the grader, and models that are not trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rethink.distributed import SINGLE_PROCESS, Ranks
from rethink.errors import UserError
from rethink.objectives import Update
from rethink.policies.base import Policy, Role
from rethink.prompts import Prompts
from rethink.types import Group, Problem, Prompt, RewardTerm, Sample, Verdict

_Grading = tuple[Verdict | None, float | None, tuple[RewardTerm, ...]]
"""A sample's verdict, reward and terms."""


def _no_role(name: str) -> Policy:
    raise ValueError(f"there is no {name} model here")


@dataclass(frozen=True)
class Actors:
    """What a method works with in one problem batch.

    - `policy`: the policy that is trained.
    - `prompts`: writes prompts; `prompts.ask(problems)` asks for first answers.
    - `grader`: returns groups with verdicts and rewards.
    - `role`: returns a policy that is not trained, such as "teacher"; see `Role`.
    - `state`: plain data that a method keeps from batch to batch; it is saved with each checkpoint.
    - `ranks`: the processes that share the grading.
    - `more_problems`: returns the next n problems of the run, to fill a batch up, or fewer at the end of a pass. The run
      continues after them.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.rewards import grade
    >>> policy = FakePolicy(lambda prompt, index, version: ("4", "5")[index])  # scripted replies, no model
    >>> actors = Actors(policy, Prompts("{question}"), grade)
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> (group,) = actors.rollout(actors.prompts.ask([problem]), n=2)
    >>> [(sample.text, sample.reward) for sample in group]
    [('4', 1.0), ('5', 0.0)]
    """

    policy: Policy
    prompts: Prompts
    grader: Callable[[Sequence[Group]], list[Group]]
    role: Callable[[Role], Policy] = _no_role
    state: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = SINGLE_PROCESS
    more_problems: Callable[[int], list[Problem]] = lambda n: []

    def rollout(self, prompts: Sequence[Prompt], n: int, policy: Policy | None = None) -> list[Group]:
        """Return one group of n graded replies per prompt, in the prompts' order, sampled from the policy or another one.

        A group is graded as soon as it is complete, while others are still being sampled. The group of a prompt that is
        too long is empty."""
        return self._graded((policy or self.policy).groups(prompts, n), len(prompts))

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with verdicts and rewards, for samples that have none or that `splice` has changed."""
        self.grader([])  # all ranks together, because it may wait for weights that they gather
        return self._graded(enumerate(groups), len(groups))

    def score(
        self, samples: Sequence[Sample], policy: Policy | None = None, prompts: Sequence[Prompt] | None = None
    ) -> list[tuple[float, ...]]:
        """Return the log-prob, in nats, of each token of each sample under the policy's present weights, or another's.

        With `prompts`, one per sample, log-probs are those after these prompts. See `Policy.score`."""
        return (policy or self.policy).score(samples, prompts)

    def leave_out(self, what: str) -> None:
        """Count something that `prepare` leaves out; the data card lists these counts."""
        self.state[what] = self.state.get(what, 0) + 1

    def _graded(self, numbered: Iterable[tuple[int, Group]], n: int) -> list[Group]:
        """Grade n numbered groups as they arrive. With several ranks, each one grades the groups that it sampled: those
        whose number, modulo the number of ranks, is its rank."""
        groups: list[Group] = [()] * n
        graded: dict[int, list[_Grading]] = {}
        error: UserError | None = None
        for i, group in numbered:
            groups[i] = group
            if i % self.ranks.size != self.ranks.rank or error is not None:
                continue
            try:
                [groups[i]] = self.grader([group])
            except UserError as err:
                error = err  # raised below: until then, the other ranks exchange samples with this one
            graded[i] = [(sample.verdict, sample.reward, sample.terms) for sample in groups[i]]
        if self.ranks.size == 1 and error is None:
            return groups

        def own_gradings() -> dict[int, list[_Grading]]:
            if error is not None:
                raise error
            return graded

        for gradings in self.ranks.on_all_ranks(own_gradings):
            for i, found in gradings.items():
                groups[i] = _with_gradings(groups[i], found)
        return groups


def _with_gradings(group: Group, gradings: Sequence[_Grading]) -> Group:
    graded: list[Sample] = []
    for sample, (verdict, reward, terms) in zip(group, gradings, strict=True):
        graded.append(replace(sample, verdict=verdict, reward=reward, terms=terms))
    return tuple(graded)


class Method(Protocol):
    """A training method: a generator of updates. After each `yield` the policy has new weights."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        """Yield the updates of one problem batch."""
        ...
