"""Replies with scores, as another tool logged them, and the verdict that a score stands for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WORDS = {
    "c": True,
    "correct": True,
    "true": True,
    "yes": True,
    "i": False,
    "incorrect": False,
    "false": False,
    "no": False,
    "n": False,  # inspect_ai's "no answer", which it counts as 0
    "p": 0.5,  # inspect_ai's "partial"
    "nan": None,
}


@dataclass(frozen=True)
class Scored:
    """The reply to one document of a task, and its scores by metric.

    `replies` holds several texts if the scores are of all of them, as for a vote; it is empty if the model was only asked
    for log-likelihoods, which are `shown` instead. `error` says why there is no score.
    """

    task: str
    doc: str
    repeat: int
    question: str
    gold: str
    replies: tuple[str, ...]
    scores: Mapping[str, Any]
    error: str = ""
    stop: str | None = None
    shown: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        return "\n\n".join(self.replies) or self.shown


def score_of(value: Any) -> bool | float | None:
    """Return True (right), False (wrong), None (not graded), or the number, if the value is no verdict. Raise ValueError
    for a value that is not a number either.

    >>> score_of("C"), score_of(0.0), score_of(float("nan")), score_of(0.25)
    (True, False, None, 0.25)
    """
    if isinstance(value, str):
        word = value.strip().lower()
        value = WORDS.get(word, word)
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str | int | float):
        raise ValueError(f"{type(value).__name__}, not a number")
    number = float(value)
    if math.isnan(number):
        return None
    return bool(number) if number in (0, 1) else number


def flat_scores(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the scores in a value: one, or NAME.KEY for each key of a mapping."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{name}.{key}", inner
    else:
        yield name, value
