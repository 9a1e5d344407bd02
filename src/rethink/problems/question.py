"""Questions that do not come from a benchmark: a user's question, or a file of questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rethink.errors import UserError
from rethink.problems import choice, free_text
from rethink.problems.answer_format import AnswerFormat, read_problem
from rethink.problems.files import read_rows
from rethink.problems.rows import Columns, Row
from rethink.problems.source import answer_format_of
from rethink.settings import ProblemSource
from rethink.types import Message, Problem


@dataclass(frozen=True)
class QuestionColumns:
    """The columns of a file of questions. If `id` is "", rows are numbered from 0; if `answer` is "", there are no gold
    answers. `images` are columns of images, separated by commas ("": the usual ones)."""

    question: str = "question"
    answer: str = ""
    id: str = ""
    images: str = ""


def source_of_answers(source: ProblemSource | None, needs_form: bool) -> ProblemSource | None:
    """Return where the form of answers to questions is from: the given source, or the usual form if one is needed."""
    return ProblemSource(source="questions") if source is None and needs_form else source


def as_problem(
    question: str,
    source: ProblemSource | None,
    gold: str = "",
    ident: str = "question",
    earlier: tuple[Message, ...] = (),
) -> Problem:
    """Return the question as a problem in the answer format of the source; without a source, any reply is an answer.

    `earlier` are the turns before the question, which every prompt shows.

    Without a gold answer, its verdicts mean nothing. Raise UserError for a gold answer that the format cannot read.
    """
    answer_format = answer_format_of(source) if source else free_text.FORMAT
    try:
        parsed = answer_format.parse_gold(gold) if gold else ""
    except ValueError as err:
        raise UserError(f"the gold answer {err}") from err
    problem = answer_format.problem(ident, question, parsed, "questions", source.extraction if source else "strict")
    return replace(problem, earlier=earlier)


def read_questions(file: Path, source: ProblemSource | None, columns: QuestionColumns) -> list[Problem]:
    """Return one problem per row of a file or folder.

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


def _questions(file: Path, source: ProblemSource | None, columns: QuestionColumns) -> Iterator[Problem]:
    answer_format = answer_format_of(source) if source else free_text.FORMAT
    extraction = source.extraction if source else "strict"
    if not columns.answer:
        answer_format = replace(answer_format, read_row=_read_question)
    else:
        answer_format = replace(answer_format, read_row=partial(_read_question_and_gold, answer_format))
    names = Columns(columns.question, columns.answer, images=columns.images)
    for row in read_rows(file):
        problem = read_problem(answer_format, row, names, 0, str(row.n), "questions", extraction)
        choice.refuse_hidden_options(row, problem.question)
        yield replace(problem, id=row.text(columns.id)) if columns.id else problem


def _read_question(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    return row.text(columns.question), ""


def _read_question_and_gold(answer_format: AnswerFormat, row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    return row.text(columns.question), answer_format.gold_in(row, columns.answer)
