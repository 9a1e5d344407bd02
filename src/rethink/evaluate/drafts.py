"""Drafts that exist already: of an earlier evaluation, or of any model, in any file with a column of replies."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluate.answers import read_answers
from rethink.evaluate.look import Drafts
from rethink.problems.form import Row
from rethink.problems.rows import read_rows
from rethink.problems.source import ProblemSource, find_form
from rethink.types import Problem


@dataclass(frozen=True)
class DraftColumns:
    """The columns of a file of drafts."""

    question: str = "question"
    answer: str = "answer"
    response: str = "response"


def own_drafts(file: Path, problems: Sequence[Problem]) -> tuple[list[Problem], Drafts]:
    """The drafts that an evaluation wrote, with their problems. Raises UserError for drafts of other problems."""
    drafts: dict[str, list[str]] = defaultdict(list)
    for one in read_answers(file):
        if one.draft is not None:
            drafts[one.problem].append(one.draft.text)
    known = {p.id for p in problems}
    strangers = [name for name in drafts if name not in known]
    if strangers or not drafts:
        what = f"drafts to other problems ({strangers[0]} for one)" if strangers else "no drafts"
        raise UserError(f"{file} has {what}; name its problems with --on")
    return [p for p in problems if p.id in drafts], dict(drafts)


def read_drafts(
    file: Path, source: ProblemSource, named: DraftColumns, problems: Sequence[Problem] | None
) -> tuple[list[Problem], Drafts]:
    """The drafts in a column of a file, one per row, and their problems: those given, found by their question (the row
    may have an instruction behind it), or those that question and answer columns state."""
    found: dict[str, Problem] = {}
    drafts: dict[str, list[str]] = defaultdict(list)
    index = {_plain(p.question): p for p in problems or ()}
    made: dict[tuple[str, str], Problem] = {}
    for row in read_rows(file):
        if problems is None:
            new = _problem(row, file, source, named)
            problem = made.setdefault((new.question, new.gold), new)
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
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _problem(row: Row, file: Path, source: ProblemSource, named: DraftColumns) -> Problem:
    form = find_form(source.verifier or "boxed")
    return Problem(
        id=f"{file.name}/{row.n}",
        question=row.text(named.question),
        gold=form.gold(row.text(named.answer)),
        verify=form.lenient if source.extraction == "lenient" else form.verify,
        solve=form.solve,
        suite=row.text(source.suite) if source.suite else file.name,
    )


def _match(row: Row, index: dict[str, Problem], column: str) -> Problem:
    question = _plain(row.text(column))
    if question in index:
        return index[question]
    longest = max((known for known in index if question.startswith(known)), key=len, default=None)
    if longest is None:
        raise UserError(f"{row.where}: its question is none of the problems named with --on: {question[:80]!r}")
    return index[longest]


def _plain(question: str) -> str:
    return " ".join(question.split())
