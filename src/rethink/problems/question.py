"""Questions that do not come from a benchmark: a user's question, or a file of questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rethink.errors import UserError
from rethink.problems.rows import read_rows
from rethink.problems.source import answer_format_of
from rethink.settings import ProblemSource
from rethink.types import Problem


@dataclass(frozen=True)
class QuestionColumns:
    """The columns of a file of questions. If `id` is "", rows are numbered from 0; if `answer` is "", there are no gold
    answers."""

    question: str = "question"
    answer: str = ""
    id: str = ""


def as_problem(question: str, source: ProblemSource, gold: str = "", ident: str = "question") -> Problem:
    """Return the question as a problem in the answer format of the source.

    Without a gold answer, its verdicts mean nothing.
    """
    answer_format = answer_format_of(source)
    parsed = answer_format.parse_gold(gold) if gold else ""
    return answer_format.problem(ident, question, parsed, "questions", source.extraction)


def read_questions(file: Path, source: ProblemSource, columns: QuestionColumns) -> list[Problem]:
    """Return one problem per row of a .jsonl or .parquet file.

    Raise UserError for a missing column, an empty file and repeated ids.
    """
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
