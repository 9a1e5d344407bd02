"""Questions of a user, and of files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.problems import countdown
from rethink.problems.question import QuestionColumns, as_problem, read_questions
from rethink.problems.source import load_problems
from rethink.settings import ProblemSource

BOXED = ProblemSource(source="questions")
ROWS = [{"name": "b", "ask": "2 + 3?", "right": 5}, {"name": "a", "ask": "3 + 4?", "right": 7}]


def jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "q.jsonl"


def test_read_questions(tmp_path: Path) -> None:
    """Guards against sorted rows, and numbers that are not converted to text."""
    found = read_questions(jsonl(tmp_path, ROWS), BOXED, QuestionColumns("ask", "right", "name"))
    assert [(p.id, p.question, p.gold) for p in found] == [("b", "2 + 3?", "5"), ("a", "3 + 4?", "7")]
    assert [p.grade("so \\boxed{7}").right for p in found] == [False, True]
    assert {p.suite for p in found} == {"questions"}


@pytest.mark.parametrize("name", ["choices", "options"])
def test_options_that_no_prompt_shows_are_refused(name: str, tmp_path: Path) -> None:
    """Guards against multiple choice that is asked without its options: of a file of questions, and of problems."""
    hidden = jsonl(tmp_path, [{"question": "Which?", "answer": "Rome", name: ["Oslo", "Rome"]}])
    with pytest.raises(UserError, match=f"the column {name!r} holds options that the question does not show"):
        read_questions(hidden, BOXED, QuestionColumns())
    with pytest.raises(UserError, match="set verifier=choice and options="):
        load_problems(ProblemSource(source=str(hidden)), 0, "test")
    shown = jsonl(tmp_path, [{"question": "Oslo or Rome?", "answer": "Rome", name: ["Oslo", "Rome"]}])
    assert len(load_problems(ProblemSource(source=str(shown)), 0, "test")) == 1


def test_read_questions_without_columns(tmp_path: Path) -> None:
    """Guards against a column that counts as gold answer or id because of its name."""
    rows = [{"question": q, "answer": "7", "id": "same"} for q in ("1?", "2?", "1?")]
    found = read_questions(jsonl(tmp_path, rows), BOXED, QuestionColumns())
    assert [(p.id, p.question, p.gold) for p in found] == [("0", "1?", ""), ("1", "2?", ""), ("2", "1?", "")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"question": "1?", "right": 5, "n": 3}, {"question": " ", "right": 5, "n": 4}],
            "line 2: the column 'question' is empty",
        ),
        ([{"question": "1?", "right": None}], "the column 'right' is empty"),
        ([{"question": q, "right": 5, "n": n} for q, n in (("1?", 3), ("2?", "3"))], "the id '3' occurs twice"),
        ([], "q.jsonl has no questions"),
    ],
)
def test_read_questions_refuses(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    """Guards against rows that are dropped silently, and repeated ids."""
    with pytest.raises(UserError, match=message):
        read_questions(jsonl(tmp_path, rows), BOXED, QuestionColumns(answer="right", id="n"))


def test_as_problem_has_the_answer_format_of_the_source() -> None:
    """Guards against a question that is asked in one format and graded in another, and a lost `extraction`."""
    found = as_problem("1 2 3 -> 6", ProblemSource(source="countdown"))
    assert (found.solve, found.verify) == (countdown.FORMAT.solve, countdown.verify)
    assert (found.id, found.gold) == ("question", "")
    for source, right in ((BOXED, False), (replace(BOXED, extraction="lenient"), True)):
        assert as_problem("1 + 1?", source, "2").grade("The answer is 2").right is right
