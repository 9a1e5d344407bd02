"""Questions that come without a benchmark: of a user, or of a file of questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rethink.errors import UserError
from rethink.problems.rows import read_rows
from rethink.problems.source import form_of
from rethink.settings import ProblemSource
from rethink.types import Problem


@dataclass(frozen=True)
class QuestionColumns:
    """Which columns a file of questions has; without `id` rows are numbered from 0, and `answer` "" is no gold answer."""

    question: str = "question"
    answer: str = ""
    id: str = ""


def as_problem(question: str, source: ProblemSource, gold: str = "", ident: str = "question") -> Problem:
    """A question to be answered in the form of the source's problems. With `gold` "" no verdict on a reply is worth
    anything."""
    form = form_of(source)
    return form.problem(ident, question, form.gold(gold) if gold else "", "questions", source.extraction)


def read_questions(file: Path, source: ProblemSource, columns: QuestionColumns) -> list[Problem]:
    """A problem per row of a .jsonl or .parquet file. Raises UserError for a missing column, an empty file and ids that
    occur twice."""
    found = list(_questions(file, source, columns))
    if not found:
        raise UserError(f"{file} has no questions")
    seen: set[str] = set()
    for problem in found:
        if problem.id in seen:
            raise UserError(f"{file}: the id {problem.id!r} occurs twice")
        seen.add(problem.id)
    return found


def _questions(file: Path, source: ProblemSource, columns: QuestionColumns) -> Iterator[Problem]:
    for row in read_rows(file):
        gold = row.text(columns.answer) if columns.answer else ""
        ident = row.text(columns.id) if columns.id else str(row.n)
        yield as_problem(row.text(columns.question), source, gold, ident)
