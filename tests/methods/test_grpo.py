"""GRPO: one update per problem batch, and DAPO's bound on the number of groups."""

from __future__ import annotations

import pytest

from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.methods.think_twice import ThinkTwice
from rethink.objectives import Objective
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Prompt
from support.method_runs import PROBLEMS, only_part, run_batch

TEXTS = Prompts("{question}", seed=13)


def right_at_first(prompt: Prompt, index: int, version: int) -> str:
    """Right at index 0 only, but always right on p1, p2 and p4."""
    return prompt.problem.gold if index == 0 or prompt.problem.id in ("p1", "p2", "p4") else "no"


def test_grpo_is_the_first_update_of_think_twice() -> None:
    """Guards against a control that differs from ThinkTwice in more than the refinement."""
    (update,) = run_batch(GRPO(n_solve=5), FakePolicy(right_at_first), TEXTS)
    actors = Actors(FakePolicy(right_at_first), TEXTS, grade)
    assert next(ThinkTwice(n_solve=5).updates(actors, PROBLEMS)) == update
    assert [len(group) for group in update.groups] == [5] * 7


@pytest.mark.parametrize(("max_groups", "trained"), [(3, (0, 3, 5)), (0, (0, 3, 5, 6))])
def test_max_groups_counts_groups_of_unequal_rewards(max_groups: int, trained: tuple[int, ...]) -> None:
    """Guards against groups of equal rewards that are counted, and monitors that see the trained groups only."""
    method = GRPO(n_solve=3, max_groups=max_groups, solve=Objective(zero_std_groups="drop"))
    (update,) = run_batch(method, FakePolicy(right_at_first), TEXTS)
    assert [s.problem.id for s in only_part(update).samples] == [f"p{n}" for n in trained for _ in range(3)]
    assert len(update.groups) == 7


def test_settings_are_checked() -> None:
    """Guards against a bound that counts groups that are not dropped."""
    for max_groups, solve in ((3, Objective()), (-1, Objective(zero_std_groups="drop"))):
        with pytest.raises(ValueError, match="max_groups must not be negative, and needs"):
            GRPO(max_groups=max_groups, solve=solve)
