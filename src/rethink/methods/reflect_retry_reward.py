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
    reflection: the reward is their mean verdict.
    """

    n_reflect: int = 8
    n_retries: int = 1
    n_tries: int = 1
    max_failures: int = 1
    reward_retry: bool = False
    shuffle: bool = False
    reflect: Objective = Objective("standardize", clip_low=0.2, clip_high=0.2, dual=math.inf, kl=0.001, n_steps=1)

    def __post_init__(self) -> None:
        check_size("n_reflect", self.n_reflect)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        asks = actors.prompts.ask([p for p in problems if p.failure is not None])
        given = [actors.policy.transcribe(ask, ask.problem.failure or "") for ask in asks]
        failures = [replace(f, version=0, verdict=Verdict(False, "prepared")) for f in given]
        failures += self.failures(actors, [p for p in problems if p.failure is None])
        groups = actors.policy.sample(actors.prompts.ask_to_reflect(failures), self.n_reflect)
        reflections = [r for group in groups for r in group]
        shown = reflections[self.n_reflect :] + reflections[: self.n_reflect] if self.shuffle else reflections
        asks = actors.prompts.ask_to_retry(reflections, shown)
        retries = actors.rollout(asks, self.n_retries)
        own = {id(r): group for r, group in zip(reflections, retries, strict=True)}
        rewards = {name: _mean_verdict(group) for name, group in own.items()}
        weights = [(r, w) for group in groups for r, w in self.reflect.weigh(group, [rewards[id(r)] for r in group])]
        if self.reward_retry:
            weights += [(s, w) for r, w in weights for s in own[id(r)]]
        seen = [tuple(r.judged(_success(rewards[id(r)])) for r in group) for group in groups]
        yield self.reflect.update_weighted("reflect", weights, seen)

    def failures(self, actors: Actors, problems: Sequence[Problem]) -> list[Sample]:
        """Wrong first tries, at most `max_failures` per problem."""
        tries = actors.rollout(actors.prompts.ask(problems), self.n_tries) if problems else []
        return [s for group in tries for s in [s for s in group if s.right is False][: self.max_failures]]

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """A row per failure of the policy (the start weights)."""
        for f in self.failures(actors, problems):
            own = {"id": f"{f.problem.id}#{f.index}", "problem": f.problem.id, "failure": f.text}
            yield {**own, "question": f.problem.question, "gold": f.problem.gold}


def _success(reward: float | None) -> Verdict:
    """For the log: a reflection counts as right if most of its retries were."""
    return Verdict(None if reward is None else reward > 0.5, "by its retries")


def _mean_verdict(retries: Group) -> float | None:
    """The reward of a reflection; None where no retry was judged."""
    judged = [float(bool(s.right)) for s in retries if s.right is not None]
    return sum(judged) / len(judged) if judged else None
