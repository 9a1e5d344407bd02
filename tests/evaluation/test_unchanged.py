"""Damaged files of answers: refused, or made whole again, but never read as if nothing were wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.evaluation.answers import read_answers
from rethink.evaluation.evaluate import EvaluationSpec, evaluate, make_setup, resumable_answers, run_evaluation
from rethink.evaluation.unchanged import SUMMARY_FILE, describe_file, refuse_changed_on_resume
from rethink.policies.fake import FakePolicy
from rethink.problems.mathematics import verify
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings
from rethink.strategies import parse_all
from rethink.types import Problem

CHANGED = "has changed since its evaluation ended"


def finished(folder: Path) -> Path:
    """Write the answers to three problems, and the summary."""
    file = folder / "answers.jsonl"
    problems = [Problem(f"p{n}", f"What is {n}?", str(n), verify, solve="{question}") for n in range(3)]
    assert len(evaluate(FakePolicy(lambda *_: "\\boxed{2}"), problems, file=file)) == 3
    (folder / SUMMARY_FILE).write_text(json.dumps({"answers": describe_file(file)}))
    return file


def flip(text: bytes) -> bytes:
    """A letter of a reply in the second line: the line is still a record."""
    return text.replace(b"boxed{2}", b"boxed{3}", 5).replace(b"boxed{3}", b"boxed{2}", 1)


def break_line(text: bytes) -> bytes:
    return text.replace(b'"problem": "p1"', b'"problem"; "p1"')


def lose_last(text: bytes) -> bytes:
    return b"".join(text.splitlines(keepends=True)[:-1])


def double(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join([*lines[:2], lines[1], *lines[2:]])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str, bool]] = {
    "a letter": (flip, CHANGED, True),
    "a line": (break_line, "line 2 of 3 is damaged", False),
    "a doubled line": (double, "lines 2 and 3 answer the same problem (p1)", False),
    "a lost line": (lose_last, CHANGED, True),
    "no line break at the end": (lambda text: text[:-1], CHANGED, True),
}


@pytest.mark.parametrize(("damage", "message", "needs_summary"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str, needs_summary: bool) -> None:
    """Guards against rates over damaged answers. Without a summary, only damage that breaks records is seen."""
    file = finished(tmp_path)
    assert len(read_answers(file)) == 3
    changed = damage(file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(UserError) as refused:
        read_answers(file)
    assert message in str(refused.value)
    assert file.read_bytes() == changed
    (tmp_path / SUMMARY_FILE).unlink()
    if needs_summary:
        assert len(read_answers(file)) in (2, 3)
        return
    with pytest.raises(UserError) as refused:
        read_answers(file)
    assert message in str(refused.value)


def test_lost_lines_are_made_again_on_resume(tmp_path: Path) -> None:
    """Guards against a shortened file that is completed without a word, and a damaged one that is completed at all."""
    file, warnings = finished(tmp_path), list[str]()
    whole = file.read_bytes()
    refuse_changed_on_resume(file, warnings.append)
    assert warnings == []
    file.write_bytes(lose_last(whole))
    refuse_changed_on_resume(file, warnings.append)
    assert [text.partition("has ")[2] for text in warnings] == [
        "lost 1 of 3 lines since its evaluation ended; they are made again"
    ]
    file.write_bytes(flip(whole))
    with pytest.raises(UserError, match=CHANGED):
        refuse_changed_on_resume(file, warnings.append)


@pytest.mark.parametrize("summary", ["{}", "[]", "no JSON", '{"answers": 7}', '{"answers": {"lines": null}}'])
def test_summaries_that_say_nothing(tmp_path: Path, summary: str) -> None:
    """Guards against answers of an older version that cannot be read any more."""
    file = finished(tmp_path)
    (tmp_path / SUMMARY_FILE).write_text(summary)
    assert len(read_answers(file)) == 3
    refuse_changed_on_resume(file, pytest.fail)


def test_a_damaged_record_ends_a_resumed_evaluation_with_a_message(tmp_path: Path) -> None:
    """Guards against a traceback for a record with a damaged name."""
    file = finished(tmp_path)
    file.write_bytes(file.read_bytes().replace(b'"reason"', b'"reasom"'))
    (answer, *_) = (json.loads(line) for line in file.read_text().splitlines())
    problem = Problem(answer["problem"], answer["question"], answer["gold"], verify, solve="{question}")
    settings = AnswerSettings()
    setup = make_setup(FakePolicy(lambda *_: "\\boxed{2}"), Prompts(), settings)
    spec = EvaluationSpec([problem], parse_all(settings.strategy))
    with pytest.raises(UserError, match="has a damaged record, of the problem p0"):
        run_evaluation(setup, spec, resumable_answers(file))
