"""Evaluations that are loaded again: a row per final answer, and the numbers that their command printed."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import rethink
from rethink.errors import UserError
from rethink.evaluation.stored import TYPES, load_evaluation
from rethink.jsonl import append
from support.evaluations import answer, answers, made, step

R, W, N = True, False, None
PAIRS = [(R, R), (W, R), (W, R), (R, W), (W, W), (N, R), (W, N)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    more = [answer("long", W, overlong=True), made("skipped", "refine", []), answer("twice", W, R, W)]
    votes = made("v", "vote:3", [R, W], [step("solve", right, index=n) for n, right in enumerate((R, W))])
    append(tmp_path / "answers.jsonl", [asdict(one) for one in [*answers(PAIRS), *more, answer("first", R), votes]])
    return tmp_path


def test_rows_say_what_the_file_says(folder: Path) -> None:
    """Guards against lost or doubled answers, and against a draft of another answer. Counted from the file's lines."""
    rows = load_evaluation(folder).rows()
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == sum(max(1, len(line["finals"])) for line in lines)
    changes = Counter(row["transition"] for row in rows)
    assert changes == {"kept right": 1, "fixed": 3, "damaged": 1, "still wrong": 2, None: 7}
    by_problem = {row["problem"]: row for row in rows}
    assert (by_problem["p1"]["draft_right"], by_problem["p1"]["right"], by_problem["p5"]["draft_right"]) == (W, R, N)
    for name, draft, text in (("p1", "wrong", "right"), ("long", None, "wrong"), ("first", None, "right")):
        assert (by_problem[name]["draft"], by_problem[name]["text"]) == (draft, text)
    assert [row["right"] for row in rows if row["problem"] == "twice"] == [R, W]
    assert [row["transition"] for row in rows if row["strategy"] == "vote:3"] == [None, None]
    assert by_problem["skipped"]["text"] is by_problem["skipped"]["right"] is None


def test_the_table_has_types(folder: Path) -> None:
    """Guards against verdicts that are not known and count as wrong in a mean, and against a table that is a copy of the
    wrong columns."""
    pandas = pytest.importorskip("pandas")
    evaluation = load_evaluation(folder)
    table = evaluation.to_pandas()
    assert list(table.columns) == list(evaluation.rows()[0])
    assert {name: str(kind) for name, kind in table.dtypes.items()} == {name: TYPES[name] for name in table.columns}
    refined = table[(table.strategy == "refine") & table.draft.notna()]
    summary = evaluation.summaries()["s"]["refine"]
    wrong = refined[refined.draft_right.eq(False) & refined.right.notna()]
    assert summary.fix is not None
    assert wrong.right.mean() == pytest.approx(summary.fix.value)
    counts = refined.transition.value_counts()
    assert summary.transitions is not None
    assert counts["fixed"] == summary.transitions.wrong_right
    assert pandas.isna(table[table.problem == "p6"].right.iloc[0])


def test_a_missing_pandas_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError for an optional package."""
    usual = builtins.__import__

    def without_pandas(name: str, *more: Any, **named: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return usual(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(UserError, match=r"to_pandas needs pandas: pip install 'rethink-rl\[pandas\]'"):
        rethink.load_evaluation(folder).to_pandas()


def test_the_columns_are_documented() -> None:
    """Guards against a column that the documentation does not explain."""
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text().partition("## From Python")[2]
    assert [name for name in TYPES if f"`{name}`" not in text] == []


def test_a_log_of_another_tool_is_an_evaluation() -> None:
    """Guards against a log whose table or numbers are not its own: the scores are read from its file here."""
    (file,) = (Path(__file__).parent / "other_tools" / "data" / "lm-eval" / "after").glob("samples_sums*")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    strict = {line["doc"]["q"]: bool(line["exact_match"]) for line in lines if line["filter"] == "strict"}
    evaluation = load_evaluation(file, "exact_match,strict")
    assert {row["question"]: row["right"] for row in evaluation.rows()} == strict
    accuracy = evaluation.summaries()["sums"]["solve"].accuracy
    assert (accuracy.value, accuracy.n) == (sum(strict.values()) / 4, 4)
    with pytest.raises(UserError, match="several scores; name one with --metric: exact_match,strict, exact_match,flex"):
        load_evaluation(file)


def test_a_metric_for_an_evaluation_of_ours_is_refused(folder: Path) -> None:
    """Guards against a score that is asked for and silently not used."""
    with pytest.raises(UserError, match="metric has no effect: it names a score in the logs of other tools"):
        load_evaluation(folder, "acc")
