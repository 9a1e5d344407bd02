"""A form of answer: how it is asked for, read from a row, graded in a reply, and stated."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from rethink.errors import UserError
from rethink.types import Problem, Verdict

Verifier = Callable[[str, str], Verdict]
"""(reply, gold) -> verdict. A failure is an exception or a verdict that is not graded, never "wrong"."""


class Extractor(Protocol):
    """(reply, lenient, question) -> the answer in the reply that the verifier would grade, None where there is none. It
    knows no gold answer and checks nothing. The question is for forms in which it says what an answer has to name."""

    def __call__(self, reply: str, lenient: bool, question: str = "") -> str | None: ...


@dataclass(frozen=True)
class Columns:
    """Which columns a form reads. Dots reach into nested ones (`prompt.0.content`); of alternatives that are separated by
    `|`, the first in which a row has something counts. A `context`, where a row has one, goes before the question."""

    question: str = "question"
    answer: str = "answer"
    tools: str = "tools"
    options: str = "options"
    context: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a file or data set, where it stands ("file.jsonl, row 3"), and its number, from 0. One that could
    not be read has no values, and says in `broken` why."""

    where: str
    values: dict[str, Any]
    n: int = 0
    broken: str = ""

    def value(self, names: str) -> Any:
        """A column's value. Raises UserError, with the place, where it is missing."""
        found = [value for name in names.split("|") if (value := self._reach(name)) is not _MISSING]
        if not found:
            raise UserError(f"{self.where}: no column {names!r}; there are {', '.join(self.values)}")
        return next((value for value in found if not _is_empty(value)), found[0])

    def text(self, names: str) -> str:
        """A column's value as text, JSON for what is not text. Raises UserError where it is missing or empty."""
        value = self.value(names)
        if _is_empty(value):
            raise UserError(f"{self.where}: the column {names!r} is empty")
        if isinstance(value, bytes):
            raise UserError(f"{self.where}: the column {names!r} holds bytes, not text")
        if isinstance(value, str):
            return value
        plain = isinstance(value, dict | list | bool | int | float)  # the rest: dates and decimals of a parquet file
        return json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)

    def has(self, names: str) -> bool:
        """Whether the row has such a column, and something in it."""
        return any(not _is_empty(self._reach(name)) for name in names.split("|"))

    def _reach(self, name: str) -> Any:
        value: Any = self.values
        if name in self.values:  # "Incorrect Answer 1" and other names with dots or blanks of their own
            return value[name]
        for key in name.split("."):
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return _MISSING
        return value


_MISSING = object()


def _is_empty(value: Any) -> bool:
    """Nothing, null, blanks, or the NaN that tables write for nothing."""
    return value is _MISSING or value is None or (isinstance(value, str) and not value.strip()) or value != value


@dataclass(frozen=True)
class AnswerFormat:
    """`read` makes question and gold answer of a row; the integer is a seed, for options in random order.

    `verify` extracts strictly, as training needs it; `lenient` also finds answers in replies in which strict extraction
    finds none, and marks its verdicts. `gold_reply` writes the gold answer as a reply, to check a verifier on its own
    golds; `gold` takes the gold answer out of a column's text that may hold more.

    For votes: `extract_answer` returns the answer in a reply, in a form that is the same for equal answers where that is
    cheap, and `equal_answers` reports whether two such answers are equal. Custom verifiers have no `extract_answer`.
    """

    solve: str
    read: Callable[[Row, Columns, int], tuple[str, str]]
    verify: Verifier
    lenient: Verifier
    gold_reply: Callable[[str], str]
    gold: Callable[[str], str] = str
    extract_answer: Extractor | None = None
    equal_answers: Callable[[str, str], bool] = operator.eq

    def problem(self, ident: str, question: str, gold: str, suite: str, extraction: str) -> Problem:
        """Return a problem that is asked and graded in this form, with "strict" or "lenient" extraction."""
        lenient = extraction == "lenient"
        verify = self.lenient if lenient else self.verify
        made = Problem(ident, question, gold, verify, solve=self.solve, suite=suite)
        if self.extract_answer is None:
            return made
        return replace(
            made,
            extract_answer=partial(self.extract_answer, lenient=lenient, question=question),
            equal_answers=self.equal_answers,
        )


def read_question_and_answer(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """The two columns as they are."""
    return row.text(columns.question), row.text(columns.answer)
