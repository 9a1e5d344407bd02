"""SCoRe (Kumar et al., arXiv 2409.12917): two tries at each problem, the second after a look at the first, in two stages.

The first stage maximizes the reward of the second try, while a strong KL term holds the first try to the start weights. The
second stage maximizes the rewards of both tries and a bonus for the change between them.

There is no released code. Our choices: the baseline is the mean over the tries at one problem, and the KL terms, in the
paper's direction, are part of the loss. `discount` makes explicit how far the first try is credited with what follows it.
docs/methods/score.md says more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import NonNegativeInt

from rethink.methods.actors import Actors
from rethink.methods.metrics import mean
from rethink.methods.turns import one_each
from rethink.objectives import Objective, Update
from rethink.settings import Probability, Size
from rethink.types import Group, Problem, Sample


@dataclass(frozen=True)
class SCoRe:
    """Two tries at each problem, both trained: one update per problem batch.

    - `n_solve`: the number of first tries per problem; each is followed by one second try.
    - `n_first_stage`: the number of problem batches of the first stage; 0 leaves it out.
    - `alpha`: the factor of the bonus, r2 - r1, that the second stage adds to the reward of the second try; 0 is off.
    - `discount`: the share of the second try's reward that the first try is credited with: with 0, the paper's value,
      each try answers for itself; 1 is the gradient of the sum of both rewards.
    - `first_stage_kl_coef`: the coefficient of the KL term on first tries in the first stage.
    - `solve`, `refine`: the objectives of first and second tries, with the KL coefficient of all other cases.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.rewards import grade
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "5" if prompt.phase == "solve" and index else "4")
    >>> method = SCoRe(n_solve=2, n_first_stage=0, alpha=3.0)  # right and wrong, then right twice
    >>> (update,) = method.updates(Actors(policy, Prompts("{question}", "again"), grade), [problem])
    >>> [part.advantages for part in update.parts]  # 1 and 0; then 1 and 1 + 3
    [(0.5, -0.5), (-1.5, 1.5)]
    """

    later_phases: ClassVar[tuple[str, ...]] = ("refine",)
    needs_reference: ClassVar[bool] = True  # the first stage, with `first_stage_kl_coef`

    n_solve: int = 8
    n_first_stage: NonNegativeInt = 40
    alpha: Size = 10.0
    discount: Probability = 0.0
    first_stage_kl_coef: Size = 0.1
    solve: Objective = Objective(kl_coef=0.01, kl_estimator="k2", n_steps=1)
    refine: Objective = Objective(kl_coef=0.01, kl_estimator="k2", n_steps=1)

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)
        self.refine.check_group_size("n_solve", self.n_solve)
        if self.solve.n_steps != self.refine.n_steps:
            raise ValueError(
                f"solve.n_steps = {self.solve.n_steps} and refine.n_steps = {self.refine.n_steps} must be equal: one "
                "update trains both tries"
            )
        if "wrong" in (self.solve.truncated, self.refine.truncated):
            raise ValueError('truncated = "wrong" would replace the return of two tries; use "keep" or "mask"')
        if self.alpha:
            self.solve.refuse_negative_rewards("solve", "alpha can make them negative")
            self.refine.refuse_negative_rewards("refine", "alpha can make them negative")

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        batch = actors.state.get("n_batches", 0)
        actors.state["n_batches"] = batch + 1
        is_first_stage = batch < self.n_first_stage
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        asks = []
        for group in solved:
            asks.append(actors.prompts.ask_to_refine([first for first in group if first.reward is not None]))
        refined = one_each(asks, actors.rollout)

        gains: list[float] = []
        firsts: list[Group] = []
        seconds: list[Group] = []
        for group in refined:
            for_first: list[Sample] = []
            for_second: list[Sample] = []
            for second in group:
                first = second.prompt.draft
                if first is None or first.reward is None or second.reward is None:
                    continue
                gains.append(second.reward - first.reward)
                of_first, of_second = self.returns(first.reward, second.reward, is_first_stage)
                for_first.append(replace(first, reward=of_first))
                for_second.append(replace(second, reward=of_second))
            firsts.append(tuple(for_first))
            seconds.append(tuple(for_second))
        # A group of equal returns has a KL term, too, so the first stage drops none.
        held = replace(self.solve, kl_coef=self.first_stage_kl_coef, zero_std_groups="keep")
        of_firsts = (held if is_first_stage else self.solve).update("firsts", firsts)
        of_seconds = self.refine.update("seconds", seconds)
        yield replace(
            of_seconds,
            name="score",
            parts=of_firsts.parts + of_seconds.parts,
            groups=(*solved, *refined),
            rewards=of_firsts.rewards + of_seconds.rewards,
            metrics={"stage": 1 if is_first_stage else 2, "gain": mean(gains)},
        )

    def returns(self, r1: float, r2: float, is_first_stage: bool) -> tuple[float, float]:
        """Return what the first and the second try are trained for, from their rewards."""
        if is_first_stage:
            return self.discount * r2, r2
        later = r2 + self.alpha * (r2 - r1)
        return r1 + self.discount * later, later
