"""Self-verification, RISE (Liu et al., arXiv 2505.13445): the policy answers, and checks some of its answers.

One update trains both: answers for their verdict, checks for their agreement with it.

Differences from the release: there is no value model, so the baseline is the mean over answers to one problem, or checks of
one answer; there is no KL term by default; a check is a further turn of the answer's conversation (`prompts.critique`), not
a prompt that quotes question and answer, and it calls the answer right or wrong instead of naming its reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rethink.methods.actors import Actors
from rethink.methods.checks import ask_to_check, describe_checks, reward_checks
from rethink.methods.turns import in_problem_order
from rethink.objectives import Objective, Update
from rethink.seeds import rng
from rethink.settings import Probability
from rethink.types import Group, Problem, Prompt


@dataclass(frozen=True)
class SelfVerification:
    """Answer all problems, and check one answer to some of them: one update per problem batch.

    `prompts.critique` asks for checks. A check that ends with `prompts.satisfied` calls the answer right.

    - `n_solve`: the number of answers per problem.
    - `n_check`: the number of checks of one answer, which share a baseline.
    - `share`: the share of the problems of which one answer, drawn at random, is checked; rounded up. 0: none.
    - `wrong`: the words with which a check calls an answer wrong. "": every check that is not satisfied does.
    - `mistaken_reward`: the reward of a check that calls a right answer wrong or a wrong one right, where 1 is that of
      agreement, and 0 that of a check that does neither. The paper's rewards 1, -0.5 and -1 are 1, 0.25 and 0 here.
    - `solve`: the objective of all replies.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.rewards import grade
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "4" if prompt.phase == "solve" else ("ok", "no")[index])
    >>> prompts = Prompts("{question}", critique="check", satisfied="ok")
    >>> method = SelfVerification(n_solve=2, n_check=2, mistaken_reward=0.0)  # two right answers; one is checked twice
    >>> (update,) = method.updates(Actors(policy, prompts, grade), [problem])
    >>> [(sample.text, advantage) for sample, advantage in zip(update.parts[0].samples, update.parts[0].advantages)]
    [('4', 0.0), ('4', 0.0), ('ok', 0.5), ('no', -0.5)]
    """

    later_phases: ClassVar[tuple[str, ...]] = ("critique",)

    n_solve: int = 8
    n_check: int = 8
    share: Probability = 0.125
    wrong: str = ""
    mistaken_reward: Probability = 0.25
    solve: Objective = Objective()

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)
        self.solve.check_group_size("n_check", self.n_check)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        n_checked = math.ceil(self.share * len(problems))
        asks: list[Prompt] = []
        for group in solved[:n_checked]:
            asks += pick_one(ask_to_check(actors.prompts, group))
        checks: list[Group] = []
        for group in actors.policy.sample(asks, self.n_check):
            checks.append(reward_checks(actors.prompts, group, self.wrong, self.mistaken_reward))
        pairs = in_problem_order(self.solve.pairs([*solved, *checks]), problems)
        update = self.solve.update_from_pairs("self_verification", pairs, (*solved, *checks))
        yield replace(update, metrics=describe_checks(actors.prompts, checks, self.wrong))


def pick_one(asks: Sequence[Prompt]) -> list[Prompt]:
    """Return one of the prompts at random, or none if there are none. The choice derives from their seeds."""
    return [rng(asks[0].seed, "check").choice(asks)] if asks else []
