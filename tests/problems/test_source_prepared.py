"""Rows that methods prepare are read back as the same problems, in every answer format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from rethink.commands import prepare as command
from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.gsr import GSR
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.problems.source import ANSWER_FORMATS, load_problems
from rethink.prompts import Prompts
from rethink.settings import ProblemSource
from rethink.types import Problem, Prompt
from support.images import png

FERRY = {
    "name": "ferry.book",
    "parameters": {
        "type": "dict",
        "properties": {"port": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
        "required": ["port"],
    },
}

QUESTIONS: dict[str, list[dict[str, Any]]] = {
    "boxed": [{"question": "2 + 5?", "answer": "7"}, {"question": "3 + 5?", "answer": "8"}],
    "choice": [
        {"question": "Which?\n\nOf these:", "answer": "Paris", "options": ["Oslo", "Rome", "Paris", "Bern", "A) B"]},
        {"question": "How many?", "answer": 0, "options": ["2", "3"]},
    ],
    "mixed": [
        {"question": "Which?", "answer": "Paris", "options": ["Oslo", "Rome", "Paris", "Bern"]},
        {"question": "How many?", "answer": "7", "options": []},
    ],
    "calls": [
        {
            "question": "Book Oban.",
            "answer": [{"name": "ferry.book", "arguments": {"port": "Oban"}}],
            "tools": [{"name": "ferry.book", "parameters": {"port": {"type": "str"}}}],
        }
    ],
    "bfcl": [
        {
            "question": [[{"role": "user", "content": "Book Oban."}]],
            "answer": [{"ferry.book": {"port": ["Oban", "oban pier"], "days": [[2, 3], ""]}}],
            "tools": [FERRY],
        }
    ],
    "equation": [{"question": "", "answer": {"numbers": [3, 7, 5], "target": 26}}],
    "countdown": [{"question": "3 7 5 -> 26", "answer": "3 7 5 -> 26"}],
    "signs": [{"question": "3 7 5 -> 26 ; 9 2 8 -> 15", "answer": "3 7 5 -> 26 ; 9 2 8 -> 15"}],
    "shapes": [{"question": "What color is the triangle?", "answer": "red"}],
}


def problems_of(name: str, folder: Path) -> list[Problem]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS[name]), encoding="utf-8")
    return load_problems(ProblemSource(str(file), verifier=name), seed=5)


def actors(script: Callable[[Prompt, int, int], str]) -> Actors:
    policy = FakePolicy(script)
    return Actors(policy, Prompts(), grade, lambda _: policy)


def written(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    parquet.write_table(Table.from_pylist(list(rows)), folder / "prepared.parquet")
    return str(folder / "prepared.parquet")


def assert_read_back(found: Sequence[Problem], given: Sequence[Problem], name: str) -> None:
    assert [(p.question, p.gold, p.solve) for p in found] == [(p.question, p.gold, p.solve) for p in given]
    for problem in found:
        assert problem.grade(ANSWER_FORMATS[name].gold_reply(problem.gold)).right is True
        assert problem.grade("no answer").right is False


@pytest.mark.parametrize("name", ANSWER_FORMATS)
def test_prepared_failures_are_read_back(name: str, tmp_path: Path) -> None:
    """Guards against prepared failures that lack options or schemas, and options in another order than the failure's."""
    given = problems_of(name, tmp_path)
    rows = list(ReflectRetryReward().prepare(actors(lambda p, i, v: "no answer"), given))
    assert len(rows) == len(given)
    source = ProblemSource(written(rows, tmp_path), verifier=name, answer="gold", id="id", failure="failure")
    for seed in (5, 6):
        found = load_problems(source, seed)
        assert_read_back(found, given, name)
        assert [p.failure for p in found] == ["no answer"] * len(given)


@pytest.mark.parametrize("name", ANSWER_FORMATS)
def test_prepared_demonstrations_are_read_back(name: str, tmp_path: Path) -> None:
    """Guards the same for replies to imitate."""
    given = problems_of(name, tmp_path)
    gold_reply = ANSWER_FORMATS[name].gold_reply
    rows = list(GSR(k=2).prepare(actors(lambda p, i, v: gold_reply(p.problem.gold)), given))
    assert len(rows) == len(given)
    columns = ProblemSource(verifier=name, answer="gold", id="problem", reply="direct", merged="refined")
    found = load_problems(replace(columns, source=written(rows, tmp_path), candidates="candidates"), 6)
    assert_read_back(found, given, name)
    assert [[d.phase for d in p.demonstrate(1)] for p in found if p.demonstrate] == [["solve", "merge"]] * len(given)


def test_prepared_rows_keep_their_images(tmp_path: Path) -> None:
    """Guards against prepared questions without their images, also those of earlier turns, and against copies of images."""
    red, blue = ({"bytes": png(color), "path": None} for color in ("red", "blue"))
    turns = [
        {"role": "user", "content": [{"type": "image", "image": png("red")}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "a square"},
        {"role": "user", "content": [{"type": "text", "text": "Is it like "}, {"type": "image", "image": png("blue")}]},
    ]
    rows = [
        {"question": "1 + 1?", "answer": "2", "images": []},
        {"question": turns, "answer": "3", "images": []},
        {"question": "Is <image> like <image>?", "answer": "4", "images": [blue, red]},
    ]
    given = load_problems(ProblemSource(), rows=rows)
    prepared = []
    for row in ReflectRetryReward().prepare(actors(lambda p, i, v: "no answer"), given):
        prepared.append(command.with_image_files(row, tmp_path / "rows-images"))
    command.write(tmp_path / "rows.parquet", prepared, {})
    columns = ProblemSource(str(tmp_path / "rows.parquet"), answer="gold", id="id", failure="failure")
    found = load_problems(columns)
    assert len(found) == len(given) == 3
    for ours, theirs in zip(found, given, strict=True):
        assert (ours.question, ours.images) == (theirs.question, theirs.images)
        assert [turn.images for turn in ours.earlier] == [turn.images for turn in theirs.earlier]
    assert len(list((tmp_path / "rows-images").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "question", "answer", "message"),
    [
        ("choice", "Which?\n\nA) x\nB) y", "C", "no column 'options'"),
        ("choice", "Which?\n\nA) x\nC) y", "A", "no column 'options'"),
        ("bfcl", "Book Oban.", "[]", "no column 'tools'"),
        ("bfcl", "Functions:\n{}", '[{"name": "f", "parameters": {"x": {"type": "any"}}}]', "not a list of prepared"),
    ],
)
def test_rows_that_were_not_prepared_need_their_columns(
    name: str, question: str, answer: str, message: str, tmp_path: Path
) -> None:
    """Guards against a row without a required column that passes for a prepared one."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": question, "answer": answer}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_problems(ProblemSource(str(file), verifier=name))
