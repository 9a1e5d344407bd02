"""Grading rows of a file: other graders' verdicts, lazy reading, and worked solutions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet

from rethink.evaluation import grade as grading
from rethink.evaluation.grade import GradeSettings, grade_rows
from rethink.problems.mathematics import FORMAT, parse_gold, verify, verify_lenient
from rethink.problems.rows import Row
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)

OPINIONS: dict[str, list[object]] = {
    "right": [1, 1.0, True, "Correct", " right ", "1.0", 0.5],
    "wrong": [0, False, "incorrect", "0", 0.49, -1],
    "not graded": [None, "", "?", float("nan"), "NaN", [1], {"score": 1}],
}


def test_what_another_grader_says() -> None:
    """Guards against a crash over a nested value, and against an opinion made up for an empty one."""
    for verdict, opinions in OPINIONS.items():
        for opinion in opinions:
            row = Row("a, row 0", {"answer": "5", "response": "\\boxed{5}", "o": opinion})
            [record] = grade_rows([row], GradeSettings(FORMAT, "answer", "response", against="o"))
            assert record["against"] == verdict, opinion


def test_rows_are_read_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a file of any size held in memory."""
    monkeypatch.setattr(grading, "CHUNK", 7)
    taken: list[int] = []

    def rows() -> Iterator[Row]:
        for n in range(100):
            taken.append(n)
            yield Row(f"row {n}", {"answer": "5", "response": f"\\boxed{{{n}}}"}, n)

    records = grade_rows(rows(), GradeSettings(FORMAT, "answer", "response"))
    assert [next(records)["row"] for _ in range(9)] == list(range(9))
    assert len(taken) <= 9 + 2 * 7


def test_worked_solutions_are_right(real_data: Path) -> None:
    """Guards against extraction that finds another box, or none, in real solutions: no exceptions among the 500 of MATH
    and the 1319 of GSM8K (which end with `#### 5`, found by lenience)."""
    rows = parquet.read_table(real_data / "math500" / "test.parquet").to_pylist()
    assert [i for i, r in enumerate(rows) if not verify(r["solution"], r["reward_model"]["ground_truth"]).right] == []
    rows = parquet.read_table(real_data / "gsm8k" / "test.parquet").to_pylist()
    found = [verify_lenient(r["extra_info"]["answer"], parse_gold(r["extra_info"]["answer"])) for r in rows]
    assert all(v.right and v.lenient for v in found)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ([], "no response"),
        ([""], "no response"),
        (" ", "no response"),
        ("It is \frac{1}{2}.", "the reply lost the backslash of \\frac"),
    ],
)
def test_replies_that_are_not_there_or_damaged_are_not_graded(reply: object, reason: str) -> None:
    """Guards against replies that scored 0 only because the file lost them, alone or in a list."""
    settings = GradeSettings(FORMAT, "answer", "response")
    (record,) = grade_rows([Row("f, line 1", {"response": reply, "answer": "2"})], settings)
    assert record["verdict"] == "not graded"
    assert reason in record["reason"]


def test_a_lost_backslash_is_restored_and_mentioned() -> None:
    """Guards against right replies that are not graded because their file lost a backslash; the reason says it."""
    rows = [Row("f, line 1", {"response": f"It is \boxed{{{n}}}.", "answer": "2"}) for n in (2, 3)]
    records = list(grade_rows(rows, GradeSettings(FORMAT, "answer", "response")))
    assert [record["verdict"] for record in records] == ["right", "wrong"]
    assert all("lost the backslash of \\boxed" in record["reason"] for record in records)


def test_a_damaged_gold_answer_is_not_graded() -> None:
    """Guards against one damaged row that ends the grading of a file, and against "wrong" for it."""
    row = Row("f, line 7", {"response": "It is \\boxed{2}.", "answer": "\frac{4}{2}"})
    (record,) = grade_rows([row], GradeSettings(FORMAT, "answer", "response"))
    assert (record["verdict"], record["location"]) == ("not graded", "f, line 7")
    assert "control character" in record["reason"]
