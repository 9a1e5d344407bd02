"""`rethink.grade`: a gold answer that the verifier cannot read is an error, not a wrong reply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.problems.grade import grade
from rethink.problems.source import load_problems
from rethink.settings import ProblemSource

UNREADABLE = [
    ("countdown", "3", "must be numbers and a target"),
    ("countdown", "3 -> 3", "must be numbers and a target"),
    ("equation", "3", "must be like"),
    ("equation", '{"numbers": [3, 7]}', "must be like"),
    ("equation", '{"numbers": 3, "target": 7}', "must be like"),
    ("calls", "x", "must be a JSON list of calls"),
    ("calls", '[{"name": "add"}]', "must be a JSON list of calls"),
    ("bfcl", "x", "is not a list of prepared answers"),
    ("bfcl", '[{"add": {"a": [1]}}]', "is not a list of prepared answers"),
    ("choice", "xyz", "must be the letter"),
    ("choice", "2", "must be the letter"),
    ("boxed", "so ####", "is empty"),
    ("boxed", "", "is empty"),
]


@pytest.mark.parametrize(("verifier", "gold", "fault"), UNREADABLE)
def test_a_gold_answer_that_cannot_be_read_is_an_error(verifier: str, gold: str, fault: str) -> None:
    """Guards against ValueErrors of the verifier, and against gold answers that make every reply wrong."""
    with pytest.raises(UserError, match=f"the gold answer {fault}"):
        grade("<answer>3</answer> \\boxed{3}", gold, verifier)


def test_a_damaged_gold_answer_is_not_graded() -> None:
    """Guards against a reply that is wrong because the gold answer lost a backslash; doubled ones are read."""
    for gold in ("\frac{1}{2}", "\text{Monday}"):
        verdict = grade("\\boxed{\\frac12}", gold)
        assert verdict.right is None
        assert "the gold answer has the control character" in verdict.reason
    assert grade("\\boxed{\\frac12}", "\\\\frac{1}{2}").right


def test_the_gold_answer_is_read_as_in_a_file() -> None:
    """A letter in brackets, a whole solution and calls with other spaces are gold answers in files, so also here."""
    assert grade("\\boxed{B}", " (b)", "choice").right
    assert grade("\\boxed{7}", "3 + 4 = 7 #### 7").right
    assert grade('[{"name": "f", "arguments": {"x": 5}}]', '[{"arguments": {"x": 5.0}, "name": "f"}]', "calls").right


@pytest.mark.parametrize("gold", ["3", "3 7 5"])
def test_rows_of_countdown_need_numbers_and_a_target(gold: str, tmp_path: Path) -> None:
    """Guards against a file whose answers end training in a ValueError of the verifier."""
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"question": "3 7 5 -> 26", "answer": gold}))
    with pytest.raises(UserError, match=r"own\.jsonl, line 1: the column 'answer' must be numbers and a target"):
        load_problems(ProblemSource(str(file), verifier="countdown"))
