"""Drafts that exist already: of an earlier evaluation, or of any model, in any file with a column of replies."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.answers import first_answers, read_answers
from rethink.evaluation.evaluate import Drafts
from rethink.problems.answer_format import Columns, Row
from rethink.problems.rows import read_rows
from rethink.problems.source import find_form
from rethink.settings import ProblemSource
from rethink.types import Problem


@dataclass(frozen=True)
class DraftColumns:
    """The columns of a file of drafts."""

    question: str = "question"
    answer: str = "answer"
    response: str = "response"


def drafts_from_answers(file: Path, problems: Sequence[Problem], limit: int = 0) -> tuple[list[Problem], Drafts]:
    """The first answers that an evaluation wrote (the first `limit`, 0: all), with their problems. Raises UserError for
    drafts of other problems, even if under the same ids."""
    answers = read_answers(file)
    known = {p.id: p.question for p in problems}
    for one in answers:
        if known.get(one.problem) != one.question:
            other = f"the question of {one.problem} differs" if one.problem in known else f"{one.problem} is not there"
            raise UserError(f"{file} has drafts to other problems than those named: {other}")
    drafts: dict[str, list[str]] = defaultdict(list)
    for problem, draft in first_answers(answers)[: limit or None]:
        drafts[problem].append(draft.text)
    if not drafts:
        raise UserError(f"{file} has no drafts")
    return [p for p in problems if p.id in drafts], dict(drafts)


def read_drafts(
    file: Path, source: ProblemSource, named: DraftColumns, problems: Sequence[Problem] | None, seed: int = 0
) -> tuple[list[Problem], Drafts]:
    """The drafts in a column of a file, one per row, and their problems: those given, found by their question (the row
    may have an instruction behind it), or those that question and answer columns state, of the first `source.limit` rows.
    `seed` is for options in random order. Raises UserError for a row whose question is none of the problems'."""
    found: dict[str, Problem] = {}
    drafts: dict[str, list[str]] = defaultdict(list)
    index = {_plain(p.question): p for p in problems or ()}
    made: dict[tuple[str, str, str], Problem] = {}
    limit = source.limit if problems is None and source.limit else None
    for row in islice(read_rows(file), limit):
        if problems is None:
            new = _problem(row, file, source, named, seed)
            problem = made.setdefault((new.question, new.gold, new.suite), new)
        else:
            problem = _match(row, index, named.question)
        found[problem.id] = problem
        drafts[problem.id].append(response_text(row.value(named.response)) or "")
    if not found:
        raise UserError(f"{file} has no rows")
    return list(found.values()), dict(drafts)


def response_text(value: Any) -> str | None:
    """A reply as text: a conversation's last turn, JSON for other things that are no text; None where there is none."""
    if isinstance(value, list) and value and isinstance(value[-1], dict) and "content" in value[-1]:
        value = value[-1]["content"]
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return re.sub("[\ud800-\udfff]", "\ufffd", text)  # half of a surrogate pair could be written to no file


def _problem(row: Row, file: Path, source: ProblemSource, named: DraftColumns, seed: int) -> Problem:
    form = find_form(source.verifier or "boxed", source)
    more = {name: getattr(source, name) or getattr(Columns(), name) for name in ("tools", "options", "context")}
    question, gold = form.read(row, Columns(named.question, named.answer, **more), seed)
    suite = row.text(source.suite) if source.suite else file.name
    return form.problem(f"{file.name}/{row.n}", question, gold, suite, source.extraction)


def _match(row: Row, index: dict[str, Problem], column: str) -> Problem:
    question = _plain(row.text(column))
    if question in index:
        return index[question]
    longest = max((known for known in index if question.startswith(f"{known} ")), key=len, default=None)
    if longest is None:
        raise UserError(f"{row.where}: its question is none of the problems named with --on: {question[:80]!r}")
    return index[longest]


def _plain(question: str) -> str:
    return " ".join(question.split())
