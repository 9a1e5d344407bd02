"""Best of n: the candidate that a judge, an LLM, rates highest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from rethink.errors import UserError
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, all_answers, note_cut
from rethink.strategies.vote import pick_one
from rethink.types import Group, Sample

UNREAD = "ratings that cannot be read"

UNREADABLE = -1.0
"""Stands for a rating that cannot be read, and is below all others."""


def best_of_n(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Replace the candidates of each attempt by the one that the judge rates highest; each is rated alone, from 0 to 10.

    Ties are broken as in `vote`. Raise UserError without a judge."""
    check_judge(setup.judge is not None)
    assert setup.judge is not None
    asks = [setup.prompts.ask_to_rate(s) for s in all_answers(attempts)]
    groups = iter(setup.judge.sample(asks, 1) if asks else [])
    return [_rated(setup, a, list(islice(groups, len(a.answers)))) for a in attempts]


def _rated(setup: Setup, attempt: Attempt, groups: Sequence[Group]) -> Attempt:
    """Return the attempt with its best answer. `groups` holds a rating per answer, () where its prompt was over-long."""
    ratings: list[float] = []
    drawn: list[Sample] = []
    shown: list[Sample] = []
    for answer, group in zip(attempt.answers, groups, strict=True):
        ratings.append(read_rating(group[0].text) if group else UNREADABLE)
        drawn += group
        if group:
            shown.append(answer)
    n_unread = sum(r == UNREADABLE for r in ratings) - (len(groups) - len(shown))
    tied = tuple(s for s, r in zip(attempt.answers, ratings, strict=True) if r == max(ratings))
    rated = note_cut(setup, attempt, shown).with_answers(attempt.answers, drawn, depth=1 if drawn else 0)
    noted = rated.with_note(OVERLONG, len(groups) - len(shown)).with_note(UNREAD, n_unread)
    return pick_one(setup, noted, tied)


def check_judge(has_judge: bool) -> None:
    """Raise UserError without a judge."""
    if not has_judge:
        raise UserError('"best" needs a judge: name a model with judge.path=..., or "self" for the model itself')


def read_rating(text: str) -> float:
    """Return the number in the last box that holds one, if it is from 0 to 10, else `UNREADABLE`."""
    found = re.findall(r"\\boxed\{\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*\}", text)
    return float(found[-1]) if found and float(found[-1]) <= 10 else UNREADABLE
