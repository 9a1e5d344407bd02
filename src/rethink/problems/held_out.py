"""What of a source is held out where it has no test split of its own, by a hash of what a problem is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from rethink.errors import UserError
from rethink.problems import calls, countdown, equation
from rethink.seeds import stable_hash
from rethink.types import Problem


def take_split(problems: Iterable[Problem], share: float, purpose: Literal["train", "test"]) -> Iterator[Problem]:
    """Return the problems for training, or those held out, in order; with a share of 0, all. Raise UserError for a share
    outside [0, 1). The same problems are held out whatever the seed, the model and the rest of the source."""
    if not 0 <= share < 1:
        raise UserError(f"held_out must be at least 0 and below 1, not {share}")
    return (p for p in problems if not share or (bucket(p) < share) == (purpose == "test"))


def bucket(problem: Problem) -> float:
    """Return where the problem's kind lies in [0, 1). Function calls with the same functions on offer are one kind, so
    that no function set is on both sides; other kinds are single problems."""
    kind = calls.names(problem.question) if problem.verify in (calls.verify, calls.lenient) else dedup_key(problem)
    return stable_hash("held out", repr(kind)) / 2**64


def dedup_key(problem: Problem) -> object:
    """Return what makes two problems the same: the question, or numbers in any order and the target."""
    if problem.verify is countdown.verify:
        return countdown.instance(problem)
    if problem.verify in (equation.verify, equation.lenient):
        return equation.instance(problem.gold)
    return " ".join(problem.question.split())
