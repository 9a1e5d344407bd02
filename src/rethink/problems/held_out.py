"""Hold out a share of a source that has no test split, by a hash of each problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from rethink.errors import UserError
from rethink.problems import calls, choice, countdown, equation, mixed
from rethink.seeds import stable_hash
from rethink.types import Problem

_WITH_OPTIONS = (choice.verify, choice.verify_lenient, mixed.verify, mixed.verify_lenient)
"""Verifiers of questions whose options may be in an order that a seed draws."""


def take_split(problems: Iterable[Problem], share: float, purpose: Literal["train", "test"]) -> Iterator[Problem]:
    """Return the problems for training, or the held-out ones, in order; all of them if the share is 0.

    The same problems are held out whatever the seed, the model and the rest of the source. Raise UserError for a share
    outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(f"held_out must be at least 0 and below 1, not {share}")
    return (p for p in problems if not share or (bucket(p) < share) == (purpose == "test"))


def bucket(problem: Problem) -> float:
    """Return a number in [0, 1) that depends on the problem alone, from a hash of its `dedup_key`.

    Function calls with the same functions share a number, so no set of functions is on both sides of the split.
    """
    is_calls = problem.verify in (calls.verify, calls.verify_lenient)
    key = calls.function_names(problem.question) if is_calls else dedup_key(problem)
    return stable_hash("held out", repr(key)) / 2**64


def dedup_key(problem: Problem) -> object:
    """Return what two copies of one problem share: the conversation with its images and with options in a fixed order, or
    for countdown the sorted numbers and the target."""
    if problem.verify is countdown.verify:
        return countdown.numbers_and_target(problem)
    if problem.verify in (equation.verify, equation.verify_lenient):
        return equation.numbers_and_target(problem.gold)
    texts = [turn.content for turn in problem.earlier if turn.role != "system"]
    asked = choice.without_order(problem.question) if problem.verify in _WITH_OPTIONS else problem.question
    question = " ".join(asked.split())
    images = [image.digest for image in problem.all_images]
    return (*texts, *images, question) if texts or images else question
