"""Verdicts on replies that are there already: one record per row of a file, in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.drafts import response_text
from rethink.jsonl import Record
from rethink.problems.answer_format import AnswerFormat, Row, Verifier
from rethink.problems.rewards import is_concurrent, map_all, verdict_of
from rethink.types import Problem, Verdict

CHUNK = 512


@dataclass(frozen=True)
class GradeSettings:
    """What to read from a row, and how to grade it. `against` names a column with another grader's verdict (1 or true:
    right)."""

    form: AnswerFormat
    answer: str
    response: str
    lenient: bool = False
    against: str = ""
    by: str = ""

    @property
    def verify(self) -> Verifier:
        return self.form.lenient if self.lenient else self.form.verify


@dataclass
class Tally:
    """What a grading came to."""

    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    groups: dict[str, Counter[str]] = field(default_factory=dict)
    against: Counter[tuple[str, str]] = field(default_factory=Counter)
    disagreements: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        verdict = record["verdict"]
        self.verdicts[verdict] += 1
        self.reasons[f"{verdict}: {record['reason']}"] += 1
        self.groups.setdefault(record.get("group", ""), Counter())[verdict] += 1
        if "against" in record:
            other = record["against"]
            self.against[verdict, other] += 1
            if {verdict, other} == {"right", "wrong"}:
                self.disagreements.append(record)


def grade_rows(rows: Iterable[Row], how: GradeSettings) -> Iterator[Record]:
    """A record per row, in order. Raises UserError if the first readable row lacks a column; later rows that do, and rows
    that cannot be read, are not graded."""
    rows = iter(rows)
    first: list[Row] = []
    while (not first or first[-1].broken) and (row := next(rows, None)) is not None:
        first.append(row)
        _check_columns(row, how)
    return _graded(first, rows, how)


def _graded(first: list[Row], rows: Iterator[Row], how: GradeSettings) -> Iterator[Record]:
    concurrent = is_concurrent(how.verify)
    while chunk := [*first, *islice(rows, CHUNK)]:
        first = []
        yield from map_all(lambda row: _record(row, how), chunk, concurrent)


def check_gold_answers(problems: Iterable[Problem], form: AnswerFormat) -> Iterator[tuple[Problem, Verdict]]:
    """The verdict on each problem's own gold answer, stated as a reply in the form that is asked for."""
    for problem in problems:
        try:
            stated = form.gold_reply(problem.gold)
        except ValueError as err:
            yield problem, Verdict(False, f"the gold answer cannot be stated: {err}")
        else:
            yield problem, verdict_of(problem.verify, stated, problem.gold, f"problem {problem.id}")


def _check_columns(row: Row, how: GradeSettings) -> None:
    for name in filter(None, (how.answer, how.response, how.against, how.by)):
        if not row.broken:
            row.value(name)


def _record(row: Row, how: GradeSettings) -> Record:
    verdict = _verdict(row, how)
    record: Record = {
        "row": row.n,
        "verdict": str(verdict),
        "extracted": verdict.extracted,
        "reason": verdict.reason,
    }
    if verdict.score is not None:
        record["score"] = verdict.score
    if verdict.lenient:
        record["lenient"] = True
    if how.by:
        record["group"] = str(_cell(row, how.by))
    if how.against:
        record["against"] = _other(_cell(row, how.against))
    return record


def _cell(row: Row, name: str) -> Any:
    return row.value(name) if row.has(name) else None


def _verdict(row: Row, how: GradeSettings) -> Verdict:
    """Return the verdict on the row's reply, not graded where it has no reply or no gold answer. Raise UserError for a
    verifier that returns what is no verdict."""
    try:
        reply, gold = _reply_and_gold(row, how)
    except UserError as err:
        return Verdict(None, str(err), None)
    return verdict_of(how.verify, reply, gold, row.where)


def _reply_and_gold(row: Row, how: GradeSettings) -> tuple[str, str]:
    if row.broken:
        raise UserError(row.broken)
    reply = response_text(row.value(how.response))
    if reply is None:
        raise UserError("there is no response")
    gold = how.form.gold(row.text(how.answer))
    if not gold.strip():
        raise UserError(f"{row.where}: there is no gold answer in the column {how.answer!r}")
    return reply, gold


def _other(value: Any) -> str:
    """Another grader's verdict: a number (right from one half on), true, "right", "correct" or the contrary; everything
    else is not graded."""
    if isinstance(value, str):
        word = value.strip().lower()
        value = {"right": 1, "correct": 1, "true": 1, "wrong": 0, "incorrect": 0, "false": 0}.get(word, word)
    try:
        score = float(value)
    except (TypeError, ValueError):
        return "not graded"
    return "not graded" if math.isnan(score) else "right" if score >= 0.5 else "wrong"
