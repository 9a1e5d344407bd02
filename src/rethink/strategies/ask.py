"""First answers, and one more look at each: solve, refine, merge."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.seeds import rng
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, count_cut, count_skipped, draw, in_place_of, in_round
from rethink.types import Group, Problem


def solve(setup: Setup, problems: Sequence[Problem], n: int = 1) -> list[Attempt]:
    """An attempt per problem with n answers, in order."""
    groups = setup.policy.sample(setup.prompts.ask(problems), n, setup.sampling) if problems else []
    found = [Attempt(p).answered(g, g, depth=1 if g else 0) for p, g in zip(problems, groups, strict=True)]
    return [a if a.answers else a.noted(OVERLONG) for a in found]


def refine(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Each answer replaced by its refinement, `rounds` times; an answer that is over-long to refine stays."""
    found = list(attempts)
    for n in range(rounds):
        drafts = [s for a in found for s in a.answers]
        groups = iter(draw(setup, in_round(setup, n).ask_to_refine(drafts)))
        found = [_refined(a, [in_place_of(old, next(groups)) for old in a.answers]) for a in found]
    return found


def _refined(attempt: Attempt, groups: Sequence[Group]) -> Attempt:
    answers = tuple(group[0] if group else old for group, old in zip(groups, attempt.answers, strict=True))
    used = [s for group in groups for s in group]
    return count_skipped(attempt.answered(answers, used, depth=1 if used else 0), sum(not group for group in groups))


def merge(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """One answer written with all candidates in view, in random order: parallel self-refinement (Generative
    Self-Refinement, arXiv 2509.00084). Candidates stay, all of them, where their prompt is over-long."""
    asked = [a for a in attempts if a.answers]
    shown = [rng(setup.prompts.seed, a.problem.id, "candidates").sample(a.answers, len(a.answers)) for a in asked]
    texts = [[s.text for s in some] for some in shown]
    groups = iter(draw(setup, setup.prompts.ask_to_merge([a.problem for a in asked], texts)))
    return [_merged(setup, a, next(groups)) if a.answers else a for a in attempts]


def _merged(setup: Setup, attempt: Attempt, group: Group) -> Attempt:
    if not group:
        return attempt.noted(OVERLONG)
    return count_cut(setup, attempt, attempt.answers).answered(group, group)
