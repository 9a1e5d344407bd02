"""Grade existing replies: one record per reply of a file, in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.drafts import replies_in
from rethink.grading.user_function import UserFunction
from rethink.jsonl import Record
from rethink.problems.answer_format import AnswerFormat, Verifier
from rethink.problems.rewards import map_all, run_verifier, runs_in_workers
from rethink.problems.rows import Row
from rethink.problems.tables import as_json
from rethink.types import Problem, Verdict

CHUNK = 512


@dataclass(frozen=True)
class GradeSettings:
    """What to read from a row, and how to grade it. `against` names a column with another grader's verdict (1 or true:
    right), `by` a column to group by.
    """

    answer_format: AnswerFormat
    answer: str
    response: str
    lenient: bool = False
    against: str = ""
    by: str = ""

    @property
    def verify(self) -> Verifier:
        return self.answer_format.verify_lenient if self.lenient else self.answer_format.verify


@dataclass
class Tally:
    """Counts over the records of a file."""

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


def grade_rows(rows: Iterable[Row], settings: GradeSettings) -> Iterator[Record]:
    """Yield a record per reply, in order. Rows that cannot be read, or lack a column, are not graded.

    Raise UserError if the first readable row lacks a column.
    """
    rows = iter(rows)
    first: list[Row] = []
    while (not first or first[-1].broken) and (row := next(rows, None)) is not None:
        first.append(row)
        _check_columns(row, settings)
    return _grade_in_chunks(first, rows, settings)


def _grade_in_chunks(first: list[Row], rows: Iterator[Row], settings: GradeSettings) -> Iterator[Record]:
    concurrent = runs_in_workers(settings.verify)
    while chunk := [*first, *islice(rows, CHUNK)]:
        first = []
        for records in map_all(lambda row: _records(row, settings), chunk, concurrent):
            yield from records


def check_gold_answers(problems: Iterable[Problem], answer_format: AnswerFormat) -> Iterator[tuple[Problem, Verdict]]:
    """Yield the verdict on each problem's own gold answer, written as a reply in the format that is asked for."""
    for problem in problems:
        try:
            reply = answer_format.gold_reply(problem.gold)
        except ValueError as err:
            yield problem, Verdict(False, f"the gold answer cannot be written as a reply: {err}")
        else:
            yield problem, run_verifier(problem.verify, reply, problem.gold, f"problem {problem.id}")


def _check_columns(row: Row, settings: GradeSettings) -> None:
    for name in filter(None, (settings.answer, settings.response, settings.against, settings.by)):
        if not row.broken:
            row.value(name)


def _records(row: Row, settings: GradeSettings) -> list[Record]:
    """Return a record per reply of the row; with a list of replies, `reply` is the number of each."""
    try:
        replies = replies_in(row.value(settings.response)) if row.has(settings.response) and not row.broken else [None]
    except UserError as err:  # a conversation without a reply
        row, replies = replace(row, broken=str(err)), [None]
    others = _value(row, settings.against) if settings.against else None
    records: list[Record] = []
    for n, reply in enumerate(replies):
        verdict = _verdict(row, reply, settings)
        record: Record = {"row": row.n, "reply": n} if len(replies) > 1 else {"row": row.n}
        record |= {"verdict": str(verdict), "extracted": verdict.extracted, "reason": verdict.reason}
        if verdict.score is not None:
            record["score"] = verdict.score
        if verdict.lenient:
            record["lenient"] = True
        if settings.by:
            record["group"] = str(_value(row, settings.by))
        if settings.against:
            own = others[n] if isinstance(others, list) and len(others) == len(replies) > 1 else others
            record["against"] = _other_verdict(own)
        records.append(record)
    return records


def _value(row: Row, name: str) -> Any:
    return row.value(name) if row.has(name) else None


def _verdict(row: Row, reply: str | None, settings: GradeSettings) -> Verdict:
    """Return the verdict on a reply; not graded without a reply or a gold answer. Raise UserError if a verifier returns
    something other than a verdict.
    """
    if row.broken or reply is None:
        return Verdict(None, row.broken or "no response", None)
    try:
        gold = settings.answer_format.read_gold(row, settings.answer)
    except UserError as err:
        return Verdict(None, str(err), None)
    verify = settings.verify
    if isinstance(verify, UserFunction):
        verify = verify.with_arguments(row=as_json(row.values))
    return run_verifier(verify, reply, gold, row.location)


def _other_verdict(value: Any) -> str:
    """Return another grader's verdict from a number (right from 0.5), a bool or a word such as "correct"; "not graded" for
    anything else.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        value = {"right": 1, "correct": 1, "true": 1, "wrong": 0, "incorrect": 0, "false": 0}.get(word, word)
    try:
        score = float(value)
    except (TypeError, ValueError):
        return "not graded"
    return "not graded" if math.isnan(score) else "right" if score >= 0.5 else "wrong"
