"""Reflect, Retry, Reward (Bensal et al., arXiv 2505.24726): on failure reflect, then try again; if that succeeds, the
reflection's tokens are rewarded.

There is no released code. Our choices where the paper is silent: a group is the reflections of one failed attempt, each
with its own retry; the advantage is standardized (n - 1); one optimizer step. Ablations that the paper lacks:
`reward_retry` gives the retry's tokens the same advantage, `shuffle` lets each retry see a reflection on another attempt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rethink.methods.actors import Actors
from rethink.methods.advantages import check_size
from rethink.methods.groups import Objective
from rethink.objectives import Update
from rethink.types import Group, Problem, Sample, Verdict


@dataclass(frozen=True)
class ReflectRetryReward:
    """One update per problem batch, on the reflections of its failures.

    A problem that comes with a prepared failure (of the start weights, see `prepare`) starts from it; others are tried
    `n_tries` times now, and each wrong try is a failure, at most `max_failures` per problem. `n_retries` retries per
    reflection: its reward is the mean of theirs.
    """

    n_reflect: int = 8
    n_retries: int = 1
    n_tries: int = 1
    max_failures: int = 1
    reward_retry: bool = False
    shuffle: bool = False
    reflect: Objective = Objective(
        "standardize", clip_low=0.2, clip_high=0.2, dual_clip=math.inf, kl_coef=0.001, n_steps=1
    )

    def __post_init__(self) -> None:
        check_size("n_reflect", self.n_reflect)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        failures = self.failures(actors, problems)
        groups = actors.policy.sample(actors.prompts.ask_to_reflect(failures), self.n_reflect)
        reflections: list[Sample] = []
        for group in groups:
            reflections.extend(group)
        shown = reflections
        if self.shuffle:
            shown = reflections[self.n_reflect :] + reflections[: self.n_reflect]
        asks = actors.prompts.ask_to_retry(reflections, shown)
        retries = actors.rollout(asks, self.n_retries)
        retries_of = {}
        for reflection, tries in zip(reflections, retries, strict=True):
            retries_of[reflection.key] = tries

        rewarded: list[Group] = []
        weighted: list[tuple[Sample, float]] = []
        for group in groups:
            rewarded.append(tuple(reward(r, retries_of[r.key]) for r in group))
            weighted += self.reflect.weigh(rewarded[-1])
        if self.reward_retry:
            for reflection, advantage in tuple(weighted):
                for retry in retries_of[reflection.key]:
                    weighted.append((retry, advantage))
        yield self.reflect.update_weighted("reflect", weighted, rewarded)

    def failures(self, actors: Actors, problems: Sequence[Problem]) -> list[Sample]:
        """Return the prepared failures, then wrong first tries at the other problems."""
        found = []
        for problem in problems:
            if problem.failure is not None:
                (ask,) = actors.prompts.ask([problem])
                failure = actors.policy.transcribe(ask, problem.failure)
                found.append(replace(failure, version=0, verdict=Verdict(False, "prepared")))
        return found + self.fail(actors, [p for p in problems if p.failure is None])

    def fail(self, actors: Actors, problems: Sequence[Problem]) -> list[Sample]:
        """Return wrong first tries, at most `max_failures` per problem."""
        if not problems:
            return []
        wrong = []
        for group in actors.rollout(actors.prompts.ask(problems), self.n_tries):
            wrong += [s for s in group if s.right is False][: self.max_failures]
        return wrong

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """Yield a row per failure of the policy (the start weights)."""
        for failure in self.fail(actors, problems):
            problem = failure.problem
            yield {
                "id": f"{problem.id}#{failure.index}",
                "problem": problem.id,
                "failure": failure.text,
                "question": problem.question,
                "gold": problem.gold,
            }


def reward(reflection: Sample, retries: Group) -> Sample:
    """Return the reflection with the mean reward of its retries; not graded where none of them was."""
    rewards = [s.reward for s in retries if s.reward is not None]
    if not rewards:
        return reflection.with_verdict(Verdict(None, "none of its retries was graded"))
    return replace(reflection, reward=sum(rewards) / len(rewards))
