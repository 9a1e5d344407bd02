"""PAG (Jiang et al., arXiv 2506.10406): the policy answers, checks its answer, and revises only what it calls wrong.

One update trains all three kinds of replies, each for itself: an answer for its verdict, a check for its agreement with the
verdict, and a revision for its verdict and a bonus for the change. Policy and verifier have separate baselines.

Differences from the release: there is no value model, so the baseline is the mean over replies of one kind to one problem
(advantage "reinforce_pp": over all replies of a role, as in the release); replies are sampled from the full distribution;
the prompts are those of the strategy self-refine, which does at test time what is trained here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.checks import ask_to_check, describe_checks, read_check, reward_checks
from rethink.methods.turns import in_problem_order, one_each
from rethink.objectives import Objective, Update
from rethink.settings import Size
from rethink.types import Group, Problem, Prompt


@dataclass(frozen=True)
class PAG:
    """Answer, check, and revise what the check calls wrong: one update per problem batch.

    `prompts.critique` asks for checks, and `prompts.improve` for revisions. A check that ends with `prompts.satisfied`
    calls the answer right.

    - `n_solve`: the number of answers per problem; each gets one check, and one revision if it is called wrong.
    - `n_rounds`: how often an answer is checked and revised, at most.
    - `wrong`: the words with which a check calls an answer wrong. A check with neither these nor `prompts.satisfied` has
      reward 0 and leads to no revision. "": every check that is not satisfied calls the answer wrong.
    - `alpha`: the factor of the bonus, r2 - r1, that is added to the reward of a revision; 0 is off.
    - `revise_all`: revise every answer that was checked, for an ablation.
    - `solve`: the objective of all replies.
    """

    later_phases: ClassVar[tuple[str, ...]] = ("critique", "improve")

    n_solve: int = 8
    n_rounds: PositiveInt = 1
    wrong: str = ""
    alpha: Size = 1.0
    revise_all: bool = False
    solve: Objective = Objective()

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve, others="revisions")
        if self.alpha and self.solve.truncated == "wrong":
            raise ValueError('solve.truncated = "wrong" would replace the bonus of revisions; use "keep" or "mask"')
        if self.alpha:
            self.solve.refuse_negative_rewards("solve", "alpha can make them negative")

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        answers = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        drawn = list(answers)
        by_policy = list(answers)
        by_verifier: list[Group] = []
        for _ in range(self.n_rounds):
            checks = self.check(actors, answers)
            answers = self.revise(actors, checks)
            drawn += [*checks, *answers]
            by_verifier += checks
            by_policy += [self.with_bonus(group) for group in answers]
        pairs = in_problem_order(self.solve.pairs(by_policy) + self.solve.pairs(by_verifier), problems)
        update = self.solve.update_from_pairs("pag", pairs, drawn, rewarded=[*by_policy, *by_verifier])
        yield replace(update, metrics=describe_checks(actors.prompts, by_verifier, self.wrong))

    def check(self, actors: Actors, answers: Sequence[Group]) -> list[Group]:
        """Return one check of each graded answer, with rewards."""
        asks = [ask_to_check(actors.prompts, group) for group in answers]
        checks = one_each(asks, actors.policy.sample)
        return [reward_checks(actors.prompts, group, self.wrong) for group in checks]

    def revise(self, actors: Actors, checks: Sequence[Group]) -> list[Group]:
        """Return one graded revision of each answer that its check calls wrong."""
        prompts = actors.prompts
        asks: list[list[Prompt]] = []
        for group in checks:
            asks.append([])
            for check in group:
                if self.revise_all or read_check(prompts, check, self.wrong) is False:
                    asks[-1].append(prompts.follow_up(check, "improve", prompts.improve))
        return one_each(asks, actors.rollout)

    def with_bonus(self, revisions: Group) -> Group:
        """Return revisions with the reward r2 + alpha (r2 - r1), where r1 is that of the answer that was checked."""
        shaped = []
        for revision in revisions:
            answer = revision.prompt.judged_draft
            if revision.reward is not None and answer is not None and answer.reward is not None:
                reward = revision.reward + self.alpha * (revision.reward - answer.reward)
                shaped.append(replace(revision, reward=reward))
        return tuple(shaped)
