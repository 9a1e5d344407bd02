"""Questions without a benchmark: of a user, and from files in which things are missing or twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from rethink.errors import UserError
from rethink.problems.question import QuestionColumns, as_problem, read_questions
from rethink.problems.source import ANSWER_FORMATS
from rethink.settings import ProblemSource
from rethink.types import Verdict

BOXED = ProblemSource(source="questions")
ROWS = [{"name": "b", "ask": "2 + 3?", "right": 5}, {"name": "a", "ask": "3 + 4?", "right": 7}]


def jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "q.jsonl"


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(Table.from_pylist(rows), folder / "q.parquet")
    return folder / "q.parquet"


@pytest.mark.parametrize("write", [jsonl, table])
def test_rows_are_problems_in_their_order(tmp_path: Path, write: Any) -> None:
    """Guards against sorted rows, and numbers of a table that do not become text."""
    found = read_questions(write(tmp_path, ROWS), BOXED, QuestionColumns("ask", "right", "name"))
    assert [(p.id, p.question, p.gold) for p in found] == [("b", "2 + 3?", "5"), ("a", "3 + 4?", "7")]
    assert [p.grade("so \\boxed{7}").right for p in found] == [False, True]
    assert {p.suite for p in found} == {"questions"}


def test_without_columns_rows_are_numbered_and_have_no_gold(tmp_path: Path) -> None:
    """Guards against a column that is taken for a gold answer, or for an id, because of its name."""
    rows = [{"question": q, "answer": "7", "id": "same"} for q in ("1?", "2?", "1?")]
    found = read_questions(jsonl(tmp_path, rows), BOXED, QuestionColumns())
    assert [(p.id, p.question, p.gold) for p in found] == [("0", "1?", ""), ("1", "2?", ""), ("2", "1?", "")]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"ask": "1?"}], QuestionColumns(), "no column 'question'; there are ask"),
        ([{"question": "1?"}, {"question": " "}], QuestionColumns(), "line 2: the column 'question' is empty"),
        ([{"question": "1?"}], QuestionColumns(answer="right"), "no column 'right'"),
        ([{"question": "1?", "right": None}], QuestionColumns(answer="right"), "the column 'right' is empty"),
        ([{"question": "1?"}], QuestionColumns(id="name"), "no column 'name'"),
        (
            [{"question": "1?", "n": 3}, {"question": "2?", "n": "3"}],
            QuestionColumns(id="n"),
            "the id '3' occurs twice",
        ),
        ([], QuestionColumns(), "q.jsonl has no questions"),
    ],
)
def test_what_is_missing_or_twice_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], columns: QuestionColumns, message: str
) -> None:
    """Guards against rows that are left out in silence, and answers that nobody can tell apart."""
    with pytest.raises(UserError, match=message):
        read_questions(jsonl(tmp_path, rows), BOXED, columns)


@pytest.mark.parametrize(("source", "form"), [("questions", "boxed"), ("countdown", "countdown")])
def test_a_question_is_asked_and_read_as_the_source_is(source: str, form: str) -> None:
    """Guards against a question that is asked in one form and read in another."""
    found = as_problem("1 2 3 -> 6", ProblemSource(source=source))
    assert (found.solve, found.verify) == (ANSWER_FORMATS[form].solve, ANSWER_FORMATS[form].verify)
    assert (found.id, found.gold) == ("question", "")
    assert found.extract_answer is not None


def test_lenient_extraction_reads_what_strict_does_not() -> None:
    """Guards against the setting being lost for questions of one's own."""
    strict, lenient = (
        as_problem("1 + 1?", ProblemSource(source="questions", extraction=how), "2") for how in ("strict", "lenient")
    )
    reply = "The answer is 2"
    assert strict.extract_answer is not None
    assert lenient.extract_answer is not None
    assert (strict.extract_answer(reply), lenient.extract_answer(reply)) == (None, "2")
    assert (strict.grade(reply).right, lenient.grade(reply).right) == (False, True)


def test_a_verifier_of_ones_own_knows_no_answers() -> None:
    """Guards against answers that are read by one rule and graded by another."""
    found = as_problem("1 + 1?", ProblemSource(source="questions", verifier="support.coins:never"), "2")
    assert (found.extract_answer, found.equal_answers) == (None, None)
    assert found.grade("\\boxed{2}") == Verdict(False, "\\boxed{2} is not 2")
