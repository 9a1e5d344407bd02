"""What a method is given: the policy, the prompts, and the grader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from rethink.distributed import SINGLE_PROCESS, Ranks
from rethink.errors import UserError
from rethink.objectives import Update
from rethink.policies.base import Policy
from rethink.prompts import Prompts
from rethink.types import Group, Problem, Prompt, RewardTerm, Sample, Verdict

Outcome = tuple[Verdict | None, float | None, tuple[RewardTerm, ...]]


def _no_role(name: str) -> Policy:
    raise ValueError(f"there is no {name} here")


@dataclass(frozen=True)
class Actors:
    """The roles of one problem batch. `grader` gives groups their verdicts and rewards, in this process; `role` opens
    "teacher" and "initial" (the frozen start weights), policies that are not trained. `state` is what a method remembers
    from batch to batch: plain data, saved with each checkpoint and restored from it. `ranks` share the grading."""

    policy: Policy
    prompts: Prompts
    grader: Callable[[Sequence[Group]], list[Group]]
    role: Callable[[Literal["teacher", "initial"]], Policy] = _no_role
    state: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = SINGLE_PROCESS

    def rollout(self, prompts: Sequence[Prompt], n: int, policy: Policy | None = None) -> list[Group]:
        """Return n graded replies to each prompt, in order of the prompts, by the policy or by a role. A group is graded as
        soon as it is complete, while others are still being sampled."""
        return self._graded((policy or self.policy).groups(prompts, n), len(prompts))

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        """Return given groups with verdicts and rewards: what was sampled without, or changed since (`splice`)."""
        return self._graded(enumerate(groups), len(groups))

    def score(
        self, samples: Sequence[Sample], policy: Policy | None = None, prompts: Sequence[Prompt] | None = None
    ) -> list[tuple[float, ...]]:
        """Return the log-prob in nats of each id of each sample under the policy as it is now, or under another one (a
        role); with `prompts`, one per sample, behind these. See `Policy.score`."""
        return (policy or self.policy).score(samples, prompts)

    def _graded(self, numbered: Iterable[tuple[int, Group]], n: int) -> list[Group]:
        """Grade groups as they come. Of several ranks each grades its share, group i modulo their number: those which its
        own policy samples, and which come first."""
        groups: list[Group] = [()] * n
        outcomes: dict[int, list[Outcome]] = {}
        fault: UserError | None = None
        for i, group in numbered:
            groups[i] = group
            if i % self.ranks.size != self.ranks.rank or fault is not None:
                continue
            try:
                [groups[i]] = self.grader([group])
            except UserError as err:
                fault = err  # not raised before all ranks have their samples: they wait for each other
            outcomes[i] = [(sample.verdict, sample.reward, sample.terms) for sample in groups[i]]
        if self.ranks.size == 1 and fault is None:
            return groups

        def own() -> dict[int, list[Outcome]]:
            if fault is not None:
                raise fault
            return outcomes

        for theirs in self.ranks.on_all_ranks(own):
            for i, found in theirs.items():
                groups[i] = _with_outcomes(groups[i], found)
        return groups


def _with_outcomes(group: Group, outcomes: Sequence[Outcome]) -> Group:
    graded: list[Sample] = []
    for sample, (verdict, reward, terms) in zip(group, outcomes, strict=True):
        graded.append(replace(sample, verdict=verdict, reward=reward, terms=terms))
    return tuple(graded)


class Method(Protocol):
    """A method is a generator of updates: after each yield the policy has new weights."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]: ...
