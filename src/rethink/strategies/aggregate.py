"""Recursive Self-Aggregation (RSA, arXiv 2509.26626): a population of answers, each round written from random subsets
of the one before.

`rsa:N,K,T` has T populations of N answers: the first is sampled from the question alone, and each answer of a later one is
written with K of the population before in view. The result is one answer of the last population, picked at random. Our
merge prompt takes the place of the paper's; docs/strategies.md says what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethink.seeds import rng
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, note_cut, reseed, sample_followups
from rethink.strategies.vote import pick_one
from rethink.types import Group, Prompt, Sample


def aggregate(setup: Setup, attempts: Sequence[Attempt], k: int = 4) -> list[Attempt]:
    """Replace each answer of an attempt by one written with k of its answers in view: a random subset for each.

    With fewer than k answers, all are shown. Where the prompt is over-long, the answer in this place stays."""
    asks: list[Prompt] = []
    shown: list[Sequence[Sample]] = []
    for attempt in attempts:
        prompts = reseed(setup.prompts, "repeat", attempt.repeat)
        for place in range(len(attempt.answers)):
            own = reseed(prompts, "member", place)
            subset = rng(own.seed, attempt.problem.id, "subset").sample(attempt.answers, min(k, len(attempt.answers)))
            asks += own.ask_to_merge([attempt.problem], [[s.text for s in subset]])
            shown.append(subset)
    groups = iter(zip(sample_followups(setup, asks), shown, strict=True))
    found: list[Attempt] = []
    for attempt in attempts:
        drawn = [next(groups) for _ in attempt.answers]
        found.append(_replaced(setup, attempt, drawn) if drawn else attempt)
    return found


def pick(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Replace the answers of each attempt by one of them, picked at random; its score is the mean over all of them."""
    return [pick_one(setup, attempt, attempt.answers) for attempt in attempts]


def _replaced(setup: Setup, attempt: Attempt, drawn: Sequence[tuple[Group, Sequence[Sample]]]) -> Attempt:
    """Return the attempt with the drawn answers. New ones keep the index of the answer in their place, from which the seeds
    of later prompts derive."""
    answers: list[Sample] = []
    new: list[Sample] = []
    noted = attempt
    for old, (group, subset) in zip(attempt.answers, drawn, strict=True):
        if group:
            new.append(replace(group[0], index=old.index))
            noted = note_cut(setup, noted, subset)
        answers.append(new[-1] if group else old)
    noted = noted.with_note(OVERLONG, len(drawn) - len(new))
    return noted.with_answers(tuple(answers), new) if new else noted
