"""Grade existing replies: one record per reply of a file, in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.bounds import kind_of
from rethink.evaluation.drafts import replies_in
from rethink.grading.damage import broken_reply
from rethink.grading.user_function import UserFunction
from rethink.jsonl import Record
from rethink.problems.answer_format import AnswerFormat, Verifier, after_marks
from rethink.problems.gold import GoldError
from rethink.problems.rewards import first_right, map_all, run_verifier, runs_in_workers
from rethink.problems.rows import Row
from rethink.problems.tables import as_json
from rethink.thinking import check_marks
from rethink.types import Problem, Verdict

CHUNK = 512
N_REASONS = 1000
"""The number of different reasons that are counted; the others are counted together."""
N_DISAGREEMENTS = 20
"""The number of disagreements that are kept."""
NO_REPLY = "no reply or gold answer in the row"


@dataclass(frozen=True)
class GradeSettings:
    """What to read from a row, and how to grade it. `against` names a column with another grader's verdict (1 or true:
    right), `by` a column to group by. `thinking` holds marks beyond those of the common model families.
    `refinements`: the replies are refinements, which may quote earlier answers beside their own.
    """

    answer_format: AnswerFormat
    answer: str
    response: str
    lenient: bool = False
    against: str = ""
    by: str = ""
    thinking: tuple[str, ...] = ()
    refinements: bool = False

    def __post_init__(self) -> None:
        try:
            check_marks(self.thinking)
        except ValueError as err:
            raise UserError(f"--thinking {err}") from err
        for option, is_given in (("--refinements", self.refinements), ("--lenient", self.lenient)):
            if is_given and isinstance(self.answer_format.verify, UserFunction):
                raise UserError(f"{option} has no effect on a verifier of your own, which gets the whole reply")

    @property
    def could_be_lenient(self) -> bool:
        """Whether lenient extraction would look in more places."""
        return not self.lenient and self.answer_format.verify_lenient is not self.answer_format.verify

    @property
    def verify(self) -> Verifier:
        verify = self.answer_format.verify_lenient if self.lenient else self.answer_format.verify
        return after_marks(verify, self.thinking)


@dataclass
class Tally:
    """Counts over the records of a file, which may be too large to keep. By group, `problems` counts the problems by their
    numbers of (right, graded) replies: a row is a problem, unless it names one (`Row.problem`), as in the logs of other
    tools.

    `locations` holds the location of the first row that was not graded for a reason. `disagreements` are the first ones.
    `n_readable` counts the rows that have a reply and a gold answer, `n_without_answer` the wrong replies without an
    answer, and `not_graded` the rows by kind of reason.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    not_graded: Counter[str] = field(default_factory=Counter)
    groups: dict[str, Counter[str]] = field(default_factory=dict)
    problems: dict[str, Counter[tuple[int, int]]] = field(default_factory=dict)
    against: Counter[tuple[str, str]] = field(default_factory=Counter)
    disagreements: list[Record] = field(default_factory=list)
    n_disagreements: int = 0
    locations: dict[str, str] = field(default_factory=dict)
    n_readable: int = 0
    n_without_answer: int = 0
    _in_row: tuple[int, int] = (0, 0)
    _by_name: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        verdict = record["verdict"]
        self.verdicts[verdict] += 1
        if verdict == "not graded":
            self.not_graded[NO_REPLY if "location" in record else kind_of(record["reason"])] += 1
        reason = f"{verdict}: {record['reason']}"
        if reason not in self.reasons and len(self.reasons) >= N_REASONS:
            reason = f"{verdict}: other reasons"
        self.reasons[reason] += 1
        if "location" in record:
            self.locations.setdefault(reason, record["location"])
        else:
            self.n_readable += 1
        self.n_without_answer += verdict == "wrong" and record["extracted"] is None
        group = record.get("group", "")
        self.groups.setdefault(group, Counter())[verdict] += 1
        self._count_for_problem(record, group)
        if "against" in record:
            other = record["against"]
            self.against[verdict, other] += 1
            if {verdict, other} == {"right", "wrong"}:
                self.n_disagreements += 1
                if self.n_disagreements <= N_DISAGREEMENTS:
                    self.disagreements.append(record)

    def _count_for_problem(self, record: Record, group: str) -> None:
        """Count a reply to the problem that its row names, or to that of the same row."""
        problems, name = self.problems.setdefault(group, Counter()), record.get("problem")
        before = self._in_row if record.get("reply") else None
        if name is not None:
            before = self._by_name.get((group, name))
        if before is not None:
            problems[before] -= 1
        n_right, n_graded = before or (0, 0)
        self._in_row = n_right + (record["verdict"] == "right"), n_graded + (record["verdict"] != "not graded")
        problems[self._in_row] += 1
        if name is not None:
            self._by_name[group, name] = self._in_row


def grade_rows(rows: Iterable[Row], settings: GradeSettings) -> Iterator[Record]:
    """Yield a record per reply, in order. Rows that cannot be read, or lack a column, are not graded.

    Raise UserError if the first readable row lacks a column.
    """
    rows = iter(rows)
    first = list(islice(rows, CHUNK))
    readable = next((row for row in first if not row.broken), None)
    if readable is not None:
        _check_columns(readable, settings)
    return _grade_in_chunks(first, rows, settings)


def _grade_in_chunks(chunk: list[Row], rows: Iterator[Row], settings: GradeSettings) -> Iterator[Record]:
    concurrent = runs_in_workers(settings.verify)
    while chunk:
        for records in map_all(lambda row: _records(row, settings), chunk, concurrent):
            yield from records
        chunk = list(islice(rows, CHUNK))


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
        location, verdict = _verdict(row, reply, settings)
        record: Record = {"row": row.n, "reply": n} if len(replies) > 1 else {"row": row.n}
        for name in ("task", "id"):  # in a log of another tool, a row is not a line
            value = _value(row, name)
            if isinstance(value, int | str):
                record[name] = value
        record |= {"verdict": str(verdict), "extracted": verdict.extracted, "reason": verdict.reason}
        if row.problem:
            record["problem"] = row.problem
        if location:
            record["location"] = location
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


def _verdict(row: Row, reply: str | None, settings: GradeSettings) -> tuple[str, Verdict]:
    """Return the verdict on a reply. Without a reply or a gold answer it is not graded, and the first value is the location
    of the row; else that is "". Raise UserError for a gold answer that is an object, and if a verifier returns something
    other than a verdict.
    """
    if row.broken or reply is None or not reply.strip():
        return row.location, _not_graded(row, row.broken or "no response")
    try:
        gold = settings.answer_format.gold_in(row, settings.answer)
    except GoldError:
        raise
    except UserError as err:
        return row.location, _not_graded(row, str(err))
    verify = settings.verify
    if isinstance(verify, UserFunction):
        verify = verify.with_arguments(row=as_json(row.values))
    texts = settings.answer_format.texts_to_grade(reply, settings.refinements, settings.thinking)
    verdict = first_right(run_verifier(verify, text, gold, row.location) for text in texts)
    fault = broken_reply(reply)
    if fault and not verdict.right and not verdict.extracted:
        return row.location, _not_graded(row, fault)
    return "", replace(verdict, reason=f"{verdict.reason}; {fault}") if fault else verdict


def _not_graded(row: Row, reason: str) -> Verdict:
    return Verdict(None, reason.removeprefix(f"{row.location}: "), None)


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
