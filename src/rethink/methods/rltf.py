"""RLTF-SD (Song et al., arXiv 2602.02482): wrong answers get feedback and a second try. Both tries are reinforced, and
the second one is also imitated as a first try, because no feedback is there at test time.

The settings follow the released code: 8 tries, returns with a discount of 0.1, centered advantages, one optimizer step,
and no imitation of tokens that are too unlikely without the feedback. Unlike there, ratios are clipped, the imitated tokens
have their own denominator, and the feedback is one turn of a conversation. docs/methods/rltf.md lists all differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat

from rethink.methods.actors import Actors
from rethink.methods.imitate import mask_unlikely
from rethink.methods.metrics import accuracy, mean_reward, trained_frac
from rethink.methods.turns import by_first_try, feedback_on, following, wrong_tries
from rethink.objectives import Imitate, Objective, Update
from rethink.prompts import refuse_unfilled
from rethink.settings import Probability
from rethink.types import Group, Problem, Sample

REVISE = (
    "Write a complete new solution of the problem. Let the feedback make it better, but mention neither the feedback nor "
    "your earlier solution."
)
"""Asks for a reply that could stand without the feedback, as in the release; our own words."""


@dataclass(frozen=True)
class RLTF:
    """First tries, feedback on wrong ones, second tries: one update per problem batch, with two parts.

    - `n_solve`: the number of first tries per problem. Each wrong one has one second try.
    - `feedback`: the reply to `prompts.critique` that a second try sees: the reason of the verdict ("verifier"), the
      reply of the teacher, or that of the policy itself.
    - `revise`: asks for the second try.
    - `discount`: the discount of the second try's reward in the return of the first.
    - `imitation_coef`: the coefficient of the imitation of second tries; 0 is off.
    - `baseline`: imitated tries are compared with the mean reward of "first" or of "second" tries at the problem.
    - `min_log_prob`: tokens that are less likely than this without the feedback, in nats, are not imitated.
    - `solve`: the objective of first and second tries.
    """

    later_phases: ClassVar[tuple[str, ...]] = ("critique", "retry")
    asks_teacher: ClassVar[bool] = True

    n_solve: int = 8
    feedback: Literal["verifier", "teacher", "policy"] = "verifier"
    revise: str = REVISE
    discount: Probability = 0.1
    imitation_coef: NonNegativeFloat = 0.1
    baseline: Literal["first", "second"] = "first"
    min_log_prob: float = -5.0
    solve: Objective = Objective(n_steps=1)

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve, others="second tries")
        refuse_unfilled("method.revise", self.revise, ())

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        comments = self.comments(actors, wrong_tries(solved))
        asks = [actors.prompts.follow_up(comment, "retry", self.revise) for comment in comments]
        second_tries = by_first_try(actors.rollout(asks, 1))
        retried = [following(group, second_tries) for group in solved]

        drawn: list[Group] = []
        reinforced: list[Group] = []
        for firsts, seconds in zip(solved, retried, strict=True):
            drawn += [firsts, seconds]
            reinforced += [self.with_returns(firsts, second_tries), seconds]
        update = self.solve.update_from_pairs("solve", self.solve.pairs(reinforced), drawn, rewarded=reinforced)
        metrics = {"first_accuracy": accuracy(solved), "second_accuracy": accuracy(retried)}
        if self.imitation_coef:
            part = self.imitation_of(actors, solved, retried)
            update = replace(update, parts=(*update.parts, part))
            metrics["imitated_frac"] = trained_frac(part.samples)
        yield replace(update, metrics=metrics)

    def comments(self, actors: Actors, wrong: Sequence[Sample]) -> list[Sample]:
        """Return feedback on wrong tries, in their order. There is none if the prompt is too long or a server failed."""
        asks = [actors.prompts.follow_up(sample, "critique", actors.prompts.critique) for sample in wrong]
        if self.feedback == "verifier":
            return [actors.policy.transcribe(ask, feedback_on(s)) for ask, s in zip(asks, wrong, strict=True)]
        critic = actors.policy if self.feedback == "policy" else actors.role("teacher")
        found: list[Sample] = []
        for group in critic.sample(asks, 1):
            for comment in group:
                if comment.stop != "failed":
                    found.append(comment)
        return found

    def with_returns(self, firsts: Group, second_tries: Mapping[tuple[str, int], Sample]) -> Group:
        """Return first tries with their returns, r0 + discount * r1, as rewards: none if one of the two was not graded."""
        found = []
        for first in firsts:
            second = second_tries.get(first.key)
            reward = first.reward
            if reward is not None and second is not None:
                reward = None if second.reward is None else reward + self.discount * second.reward
            found.append(replace(first, reward=reward))
        return tuple(found)

    def imitation_of(self, actors: Actors, solved: Sequence[Group], retried: Sequence[Group]) -> Imitate:
        """Return the part that imitates graded second tries as replies to the plain prompts."""
        imitated: list[Sample] = []
        weights: list[float] = []
        for firsts, seconds in zip(solved, retried, strict=True):
            baseline = mean_reward(firsts if self.baseline == "first" else seconds)
            for second in seconds:
                if second.reward is not None and not math.isnan(baseline):
                    imitated.append(actors.policy.reprompt(second, firsts[0].prompt))
                    weights.append(second.reward - baseline)
        likely = mask_unlikely(imitated, actors.score(imitated), self.min_log_prob)
        return Imitate(likely, tuple(weights), self.imitation_coef)
