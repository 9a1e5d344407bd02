"""Parallel self-refinement: one answer written with all candidates in view (Generative Self-Refinement, arXiv
2509.00084)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethink.seeds import rng
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, note_cut, reseed, sample_followups
from rethink.types import Group


def merge(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Replace the candidates of each attempt by one new answer. The prompt shows all of them, in random order.

    If that prompt is over-long, the candidates stay as they are."""
    asks = []
    for a in attempts:
        if not a.answers:
            continue
        prompts = reseed(setup.prompts, "repeat", a.repeat)
        shown = rng(prompts.seed, a.problem.id, "candidates").sample(a.answers, len(a.answers))
        asks += prompts.ask_to_merge([a.problem], [[s.text for s in shown]])
    groups = iter(sample_followups(setup, asks))
    return [_merged(setup, a, next(groups)) if a.answers else a for a in attempts]


def _merged(setup: Setup, attempt: Attempt, group: Group) -> Attempt:
    if not group:
        return attempt.with_note(OVERLONG)
    # Seeds of later prompts derive from the index, and must differ between repeats.
    merged = tuple(replace(s, index=attempt.repeat) for s in group)
    return note_cut(setup, attempt, attempt.answers).with_answers(merged, merged)
