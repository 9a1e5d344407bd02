"""Refinement: the model sees its own answer with a request to review it (ThinkTwice, arXiv 2604.01591)."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.strategies.attempt import (
    OVERLONG,
    Attempt,
    Setup,
    all_answers,
    keep_index,
    reseed,
    sample_followups,
)
from rethink.types import Group, Sample


def refine(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1, n: int = 1) -> list[Attempt]:
    """Replace each answer by its refinement, `rounds` times; the last round draws n refinements of each.

    An answer whose refine prompt is over-long stays as it is."""
    found = list(attempts)
    for number in range(rounds):
        drafts = all_answers(found)
        n_drawn = n if number == rounds - 1 else 1
        groups = sample_followups(setup, reseed(setup.prompts, "round", number).ask_to_refine(drafts), n_drawn)
        pairs = iter(zip(drafts, groups, strict=True))
        found = [_refined(a, [next(pairs) for _ in a.answers]) for a in found]
    return found


def _refined(attempt: Attempt, refinements: Sequence[tuple[Sample, Group]]) -> Attempt:
    """Return the attempt after a round; `refinements` pairs each draft with the samples that replace it."""
    answers: list[Sample] = []
    drawn: list[Sample] = []
    n_skipped = 0
    for draft, group in refinements:
        new = keep_index(draft, group) if len(group) == 1 else group
        answers += new or (draft,)
        drawn += new
        n_skipped += not new
    return attempt.with_answers(tuple(answers), drawn, depth=1 if drawn else 0).with_note(OVERLONG, n_skipped)
