"""Critique-GRPO (Zhang et al., arXiv 2506.03106): each answer is criticized and refined, and the best refinements join the
group of the answers, as if the policy had written them without the critique.

Differences from the release: the critique and the request to use it are turns of a conversation, not one prompt;
refinements keep the sampled token ids, and replace no answer; no entropy bonus. The release standardizes advantages, since
the key that its script sets to center them is read by nothing; we center them, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.critique_grpo_critic import Critic
from rethink.methods.metrics import mean
from rethink.objectives import Objective, Shaping, Update
from rethink.settings import Finite
from rethink.types import Group, Problem, Sample


@dataclass(frozen=True)
class CritiqueGRPO:
    """GRPO on answers and refinements together: one update per problem batch.

    - `n_solve`: the number of answers per problem.
    - `n_kept`: the number of refinements per problem that join the answers; those with the highest reward.
    - `critic`: who criticizes the answers.
    - `gamma`: a refinement's token of probability p, under the plain prompt, has the loss -A p / (p + gamma).
    - `solve`: the objective of answers and refinements. By default, ratios are not clipped, as in the release.
    """

    later_phases: ClassVar[tuple[str, ...]] = ("critique", "improve")
    asks_teacher: ClassVar[bool] = True

    n_solve: int = 7
    n_kept: PositiveInt = 1
    critic: Critic = Critic()
    gamma: Finite = 0.1
    solve: Objective = Objective(
        clip_low=1.0, clip_high=math.inf, dual_clip=math.inf, loss_aggregation="constant", n_steps=2
    )

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)
        self.solve.make_surrogate(self.shaping)

    @property
    def shaping(self) -> Shaping:
        """The loss of refinements."""
        return Shaping("constant", self.gamma, guard=0.0)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        asks = actors.prompts.ask(problems)
        solved = actors.rollout(asks, self.n_solve)
        refined = self.refine(actors, solved)
        kept: list[Sample] = []
        groups: list[Group] = []
        joined: list[Group] = []
        for ask, answers in zip(asks, solved, strict=True):
            refinements = refined.get(ask.group, ())
            groups += [answers, refinements]
            best = best_of(refinements, self.n_kept)
            kept += best
            members = list(answers)
            for sample in best:
                members.append(replace(actors.policy.reprompt(sample, ask), index=len(members)))
            joined.append(tuple(members))
        update = self.solve.update_from_pairs("solve", self.solve.pairs(joined), groups, self.shaping, joined)
        right = [float(bool(sample.right)) for sample in kept]
        yield replace(update, metrics={"n_kept": len(kept), "kept_right_frac": mean(right)})

    def refine(self, actors: Actors, solved: Sequence[Group]) -> dict[str, Group]:
        """Return graded refinements by the group of their drafts: one of each graded answer."""
        drafts: list[Sample] = []
        for group in solved:
            drafts += [sample for sample in group if sample.right is not None]
        critiques = self.critic.criticize(actors, drafts)
        asks = [actors.prompts.follow_up(critique, "improve", actors.prompts.improve) for critique in critiques]
        found: dict[str, Group] = {}
        for ask, refinement in zip(asks, actors.rollout(asks, 1), strict=True):
            assert ask.judged_draft is not None
            key = ask.judged_draft.prompt.group
            found[key] = (*found.get(key, ()), *refinement)
        return found


def best_of(refinements: Group, n: int) -> list[Sample]:
    """Return the n graded refinements with the highest rewards, the first ones among equals."""
    rewarded: list[tuple[float, Sample]] = []
    for sample in refinements:
        if sample.reward is not None:
            rewarded.append((sample.reward, sample))
    rewarded.sort(key=lambda pair: pair[0], reverse=True)  # keeps the order of equals
    return [sample for _, sample in rewarded[:n]]
