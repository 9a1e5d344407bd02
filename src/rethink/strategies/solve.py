"""First answers: one or several samples per problem."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.strategies.attempt import Attempt, Setup, start_attempt
from rethink.types import Problem


def solve(setup: Setup, problems: Sequence[Problem], n: int = 1, repeats: int = 1) -> list[Attempt]:
    """Return the attempts at each problem, in order, one per repeat, each with n answers.

    All repeats are samples of one prompt: answer i of repeat r is sample i * repeats + r. So a larger n keeps the first
    answers."""
    groups = setup.policy.sample(setup.prompts.ask(problems), n * repeats, setup.sampling) if problems else []
    found: list[Attempt] = []
    for problem, group in zip(problems, groups, strict=True):
        found += [start_attempt(problem, group[repeat::repeats], repeat) for repeat in range(repeats)]
    return found
