"""GRPO: one update per problem batch, and DAPO's dynamic sampling."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.methods.think_twice import ThinkTwice
from rethink.objectives import Objective
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Problem, Prompt
from support.method_runs import PROBLEMS, make_problem, only_part, run_batch

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
    with pytest.raises(ValueError, match="fill_rounds needs"):
        GRPO(fill_rounds=1)


def scripted_stream(rounds: Sequence[int], asked: list[int]) -> Callable[[int], list[Problem]]:
    """Return a stream that has as many problems as each round names, and notes how many it was asked for."""
    numbers = itertools.count(100)
    left = list(rounds)

    def more(n: int) -> list[Problem]:
        asked.append(n)
        return [make_problem(next(numbers)) for _ in range(min(n, left.pop(0)))]

    return more


@pytest.mark.parametrize(
    ("settings", "rounds", "asked", "trained"),
    [
        # Of p0 to p6, p0, p3, p5 and p6 are useful. 3 of 7 are missing: 3 * 7 / 4 = 5.25 are asked for. All are useful.
        ({"fill_rounds": 1}, [9], [6], ["p0", "p3", "p5", "p6", "p100", "p101", "p102"]),
        # Only 2 come: 1 is missing after 6 of 9 were useful, and 1 * 9 / 6 = 1.5 are asked for.
        ({"fill_rounds": 9}, [2, 9], [6, 2], ["p0", "p3", "p5", "p6", "p100", "p101", "p102"]),
        # The cap, and the end of a pass.
        ({"fill_rounds": 1}, [2, 9], [6], ["p0", "p3", "p5", "p6", "p100", "p101"]),
        ({"fill_rounds": 9}, [0], [6], ["p0", "p3", "p5", "p6"]),
        # Enough, with max_groups; more than the batch, of which at most 7 problems are asked for at a time.
        ({"fill_rounds": 9, "max_groups": 4}, [], [], ["p0", "p3", "p5", "p6"]),
        (
            {"fill_rounds": 1, "max_groups": 99},
            [99],
            [7],
            ["p0", "p3", "p5", "p6", *(f"p{n}" for n in range(100, 107))],
        ),
    ],
)
def test_a_batch_is_filled_up(
    settings: dict[str, Any], rounds: list[int], asked: list[int], trained: list[str]
) -> None:
    """Guards against batches that shrink, rounds without end, and surplus groups that make an update larger."""
    found: list[int] = []
    actors = Actors(FakePolicy(right_at_first), TEXTS, grade, more_problems=scripted_stream(rounds, found))
    method = GRPO(n_solve=3, solve=Objective(zero_std_groups="drop"), **settings)
    (update,) = method.updates(actors, PROBLEMS)
    assert found == asked
    assert [s.problem.id for s in only_part(update).samples[::3]] == trained
    assert len(only_part(update).samples) == 3 * len(trained)
    assert len(update.groups) >= 7, "the monitors see all groups"
    assert update.metrics == {"n_trained_groups": len(trained)}


def test_nothing_useful_asks_for_a_whole_batch() -> None:
    """Guards against a division by 0, and an update without samples that fails."""
    found: list[int] = []
    policy = FakePolicy(lambda prompt, index, version: "no")
    actors = Actors(policy, TEXTS, grade, more_problems=scripted_stream([7, 7], found))
    (update,) = GRPO(n_solve=2, fill_rounds=2, solve=Objective(zero_std_groups="drop")).updates(actors, PROBLEMS)
    assert (found, only_part(update).samples, len(update.groups)) == ([7, 7], (), 21)
