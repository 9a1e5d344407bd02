"""First answers, and one more look at each: solve, refine, merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethink.seeds import rng
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, answers_of, count_cut, draw, in_place_of, reseeded
from rethink.types import Group, Problem, Sample


def solve(setup: Setup, problems: Sequence[Problem], n: int = 1, repeats: int = 1) -> list[Attempt]:
    """Return the attempts at each problem, in order, one per repeat, each with n answers.

    Answers of all repeats are samples of one prompt: answer i of repeat r has the index i * repeats + r, so that more
    answers per repeat leave the first ones as they are."""
    groups = setup.policy.sample(setup.prompts.ask(problems), n * repeats, setup.sampling) if problems else []
    found: list[Attempt] = []
    for problem, group in zip(problems, groups, strict=True):
        found += [begun(problem, group[repeat::repeats], repeat) for repeat in range(repeats)]
    return found


def begun(problem: Problem, answers: Group, repeat: int = 0) -> Attempt:
    """Return an attempt that begins with these answers; without any, its prompt was over-long."""
    attempt = Attempt(problem, repeat)
    return attempt.answered(answers, answers) if answers else attempt.noted(OVERLONG)


def refine(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1, n: int = 1) -> list[Attempt]:
    """Replace each answer by its refinement, `rounds` times, the last time by n refinements.

    An answer that is over-long to refine stays."""
    found = list(attempts)
    for number in range(rounds):
        drafts = answers_of(found)
        wanted = n if number == rounds - 1 else 1
        groups = draw(setup, reseeded(setup.prompts, "round", number).ask_to_refine(drafts), wanted)
        following = iter(zip(drafts, groups, strict=True))
        found = [_refined(a, [next(following) for _ in a.answers]) for a in found]
    return found


def _refined(attempt: Attempt, refinements: Sequence[tuple[Sample, Group]]) -> Attempt:
    answers: list[Sample] = []
    used: list[Sample] = []
    n_skipped = 0
    for draft, group in refinements:
        new = in_place_of(draft, group) if len(group) == 1 else group
        answers += new or (draft,)
        used += new
        n_skipped += not new
    return attempt.answered(tuple(answers), used, depth=1 if used else 0).noted(OVERLONG, n_skipped)


def merge(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """One answer written with all candidates in view, in random order: parallel self-refinement (Generative
    Self-Refinement, arXiv 2509.00084). Candidates stay, all of them, where their prompt is over-long."""
    asks = []
    for a in attempts:
        if not a.answers:
            continue
        texts = reseeded(setup.prompts, "repeat", a.repeat)
        shown = rng(texts.seed, a.problem.id, "candidates").sample(a.answers, len(a.answers))
        asks += texts.ask_to_merge([a.problem], [[s.text for s in shown]])
    groups = iter(draw(setup, asks))
    return [_merged(setup, a, next(groups)) if a.answers else a for a in attempts]


def _merged(setup: Setup, attempt: Attempt, group: Group) -> Attempt:
    if not group:
        return attempt.noted(OVERLONG)
    # What is drawn next derives from the index, and must differ between repeats.
    merged = tuple(replace(s, index=attempt.repeat) for s in group)
    return count_cut(setup, attempt, attempt.answers).answered(merged, merged)
