"""Which columns are the question and the answer: what is clear, and what is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.recipes.data_columns import inspect

TURNS = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"question": "?", "answer": "5"}, "question", "answer"),
        ({"Problem": "?", "Solution": "5", "level": 3}, "Problem", "Solution"),
        ({"problem": "?", "solution": "long", "answer": "5"}, "problem", "answer"),
        ({"answer": "long #### 5", "final_answer": "5", "prompt": "?"}, "prompt", "final_answer"),
        ({"prompt": TURNS[:1], "reward_model": {"ground_truth": "5"}}, "prompt", "reward_model.ground_truth"),
        ({"prompt": "?", "completion": "5"}, "prompt", "completion"),
        ({"messages": TURNS}, "messages", "messages"),
        ({"question": "?", "prompt": "", "answer": "5", "gold": None}, "question", "answer"),
    ],
)
def test_clear_columns(tmp_path: Path, row: dict[str, Any], question: str, answer: str) -> None:
    """Guards against a recipe that asks the solution or grades by the level."""
    found = inspect(write(tmp_path, row, row))
    assert (found.question, found.answer, found.options, found.verifier) == (question, answer, "", "boxed")


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"question": "?", "choices": ["a", "b"], "answer": 0}, "choices"),
        ({"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}, "choices.text"),
        ({"question": "?", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C"}, "A,B,C,D"),
    ],
)
def test_options_ask_for_a_choice(tmp_path: Path, row: dict[str, Any], options: str) -> None:
    """Guards against multiple choice whose options no prompt shows."""
    found = inspect(write(tmp_path, row))
    assert (found.options, found.verifier) == (options, "choice")


def test_what_was_preferred_is_said(tmp_path: Path) -> None:
    """Guards against a silent choice between two columns that both could be the answer."""
    found = inspect(write(tmp_path, {"problem": "?", "solution": "long", "answer": "5"}))
    assert found.notes == ("question: problem", "answer: answer, preferred to solution")
    found = inspect(write(tmp_path, {"instruction": "add", "input": "2 3", "output": "5"}))
    assert (found.question, found.context, found.answer) == ("instruction", "input", "output")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"Frage": "?", "answer": "5"}],
            "no column's name says that it is the question; name it with --question NAME: ",
        ),
        ([{"question": "?", "problem": "?", "answer": "5"}], "question or problem may be the question; choose one"),
        ([{"question": "?", "gold": "5", "answer": "5"}], "gold or answer may be the answer; choose one"),
        ([{"question": "?", "answer": "5"}, {"question": "?", "answer": " "}], "line 2: the column 'answer' is empty"),
        ([], "has no rows"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    """Guards against guesses."""
    with pytest.raises(UserError, match=message.replace("'", ".")):
        inspect(write(tmp_path, *rows))


def test_named_columns_win(tmp_path: Path) -> None:
    """Guards against options that are ignored, and against names that no row has."""
    file = write(tmp_path, {"question": "?", "problem": "?", "gold": "5", "answer": "5"})
    found = inspect(file, "problem", "gold")
    assert (found.question, found.answer, found.notes) == ("problem", "gold", ())
    with pytest.raises(UserError, match="no column 'prolem'"):
        inspect(file, "prolem", "gold")
