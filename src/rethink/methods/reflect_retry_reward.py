"""Reflect, Retry, Reward (Bensal et al., arXiv 2505.24726): after a failure, reflect and try again. If the retry is
right, the tokens of the reflection are rewarded.

There is no released code. The paper does not state the following, and we chose: a group is all reflections on one
failed try, each with its own retry; the advantage is standardized (n - 1); one optimizer step. Two ablations are ours:
`reward_retry` gives the retry's tokens the same advantage; `shuffle` shows each retry a reflection on another failed
try.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import PositiveInt

from rethink.methods.actors import Actors
from rethink.objectives import Objective, Update
from rethink.problems.conversation import problem_cells
from rethink.types import Group, Problem, Sample, Verdict


@dataclass(frozen=True)
class ReflectRetryReward:
    """Reinforce reflections after which a retry is right: one update per problem batch.

    - `n_reflect`: the number of reflections on each failure.
    - `n_retries`: the number of retries after each reflection, whose mean reward is the reflection's.
    - `n_tries`: how often a problem without a prepared failure (`problems.failure`) is tried; wrong tries are failures.
    - `max_failures`: the largest number of failures per problem.
    - `reward_retry`: also train the retries, with the advantage of their reflection.
    - `shuffle`: show each retry a reflection on another failure.
    - `reflect`: the objective.
    """

    later_phases: ClassVar[tuple[str, ...]] = ("reflect", "retry")

    n_reflect: int = 8
    n_retries: PositiveInt = 1
    n_tries: PositiveInt = 1
    max_failures: PositiveInt = 1
    reward_retry: bool = False
    shuffle: bool = False
    reflect: Objective = Objective(
        "standardize", clip_low=0.2, clip_high=0.2, dual_clip=math.inf, kl_coef=0.001, n_steps=1
    )

    def __post_init__(self) -> None:
        self.reflect.check_group_size("n_reflect", self.n_reflect)

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
        for group in groups:
            rewarded.append(tuple(reward_by_retries(r, retries_of[r.key]) for r in group))
        trained: list[tuple[Sample, float]] = []
        for reflection, advantage in self.reflect.pairs(rewarded):
            trained.append((reflection, advantage))
            # Optimizer steps split groups in order. Retries follow their reflections, so each step trains both.
            for retry in retries_of[reflection.key] if self.reward_retry else ():
                if retry.reward is not None:
                    trained.append((retry, advantage))
        yield self.reflect.update_from_pairs("reflect", trained, rewarded)

    def failures(self, actors: Actors, problems: Sequence[Problem]) -> list[Sample]:
        """Return the prepared failures, then wrong tries at the other problems."""
        found = []
        for problem in problems:
            if problem.failure is not None:
                (ask,) = actors.prompts.ask([problem])
                failure = actors.policy.transcribe(ask, problem.failure)
                found.append(replace(failure, version=0, verdict=Verdict(False, "prepared")))
        return found + self.wrong_tries(actors, [p for p in problems if p.failure is None])

    def wrong_tries(self, actors: Actors, problems: Sequence[Problem]) -> list[Sample]:
        """Return wrong tries, at most `max_failures` per problem."""
        if not problems:
            return []
        wrong = []
        for group in actors.rollout(actors.prompts.ask(problems), self.n_tries):
            wrong += [s for s in group if s.right is False][: self.max_failures]
        return wrong

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """Yield one row per failure of the policy (the start weights)."""
        for failure in self.wrong_tries(actors, problems):
            cells = problem_cells(failure.problem)
            yield {"id": f"{failure.problem.id}#{failure.index}", **cells, "failure": failure.text}


def reward_by_retries(reflection: Sample, retries: Group) -> Sample:
    """Return the reflection with the mean reward of its graded retries; not graded if there are none."""
    rewards = [s.reward for s in retries if s.reward is not None]
    if not retries:
        why = "the prompt of its retry was too long (sampler.max_prompt_tokens, or the model's positions)"
        return reflection.with_verdict(Verdict(None, why))
    if not rewards:
        why = ": ".join(filter(None, ("none of its retries was graded", retries[0].why_no_reward())))
        return reflection.with_verdict(Verdict(None, why))
    return replace(reflection, reward=sum(rewards) / len(rewards))
