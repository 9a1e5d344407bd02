"""`--json`: one JSON document on stdout, with the numbers of the tables and files, and nothing else there."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.command_line import PLAIN, Result, Rethink, assert_one_message

SMALL = [*PLAIN, "evaluation.sampling={temperature = 1.0, max_tokens = 5}", "evaluation.problems.limit=3"]


def document(found: Result, code: int = 0) -> Any:
    """Return what stdout holds, which must be one JSON document without NaN."""
    assert found.code == code
    assert found.out.isascii()
    return json.loads(found.out, parse_constant=pytest.fail)


def file_of(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_an_evaluation_prints_its_summary(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against tables or notes between the braces, and numbers that are not those of summary.json."""
    found = rethink("eval", "tiny", "--on", "countdown", *SMALL, "--out", "e\u202ee", "--json")
    assert document(found) == {"folder": "e\u202ee", **file_of(tmp_path / "e\u202ee" / "summary.json")}
    assert "answers: e\\u202ee/answers.jsonl" in found.err
    assert "rethink view" not in found.err  # for people
    assert_one_message(rethink("compare", "e\u202ee", "nowhere", "--json"), "nowhere holds no answers")


def test_a_comparison_prints_what_it_writes(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against two forms of one result."""
    for name in ("a", "b"):
        found = rethink("eval", "tiny", "--on", "countdown", *SMALL, f"seed={name == 'b':d}", "--out", name)
        assert found.code == 0, found.err
    found = rethink("compare", "a", "b", "--out", "c.json", "--json")
    assert document(found) == file_of(tmp_path / "c.json")
    assert document(found)["n_shared"] == 3


def test_a_matrix_is_that_of_its_file(rethink: Rethink, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Guards against a table around the JSON, and progress on stdout."""
    (tmp_path / "q.jsonl").write_text('{"question": "1 3 7", "answer": "11"}\n')
    for run in ("x", "y"):
        shutil.copytree(model_folders["qwen3"], tmp_path / run)
    small = [*PLAIN, "evaluation.sampling.max_tokens=3"]
    found = document(rethink("cross", "x", "y", "--on", "q.jsonl", "--out", "c", "--json", *small))
    assert found == {"folder": "c", "weights": {}, "matrix": file_of(tmp_path / "c" / "matrix.json")}


def test_grades_are_counted(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against counts that are not those of the verdicts' file."""
    rows: list[dict[str, Any]] = []
    for n, reply in enumerate(["\\boxed{5}", "\\boxed{6}", "\\boxed{7}", "five", "\\boxed{9^{9^{9}}}", "\\boxed{5.0}"]):
        rows.append({"answer": "5", "response": reply, "kind": "ab"[n % 2], "other": n % 2 == 0})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = document(rethink("grade", "a.jsonl", "--out", "v.jsonl", "--by", "kind", "--against", "other", "--json"))
    records = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    counted = Counter(record["verdict"] for record in records)
    assert {v: found[v.replace(" ", "_")] for v in counted} == counted
    assert found["accuracy_of_graded"]["value"] == pytest.approx(2 / 5)
    assert (found["n"], found["verdicts"]) == (6, "v.jsonl")
    of_kind = Counter(record["verdict"] for record in records if record["group"] == "b")
    assert found["groups"]["b"]["wrong"] == of_kind["wrong"]
    pairs = Counter((record["verdict"], record["against"]) for record in records)
    assert {(p["ours"], p["theirs"]): p["n"] for p in found["against"]} == pairs


def test_refused_gold_answers_are_listed(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against an exit code 0 for a suite with a gold answer that our verifier refuses."""
    (tmp_path / "s.jsonl").write_text('{"question": "?", "answer": "4"}\n{"question": "?", "answer": "{x y z"}\n')
    found = document(rethink("grade", "--gold", "s.jsonl", "--json"), code=1)["suites"]["s.jsonl"]
    assert (found["n"], found["n_accepted"]) == (2, 1)
    assert [refused["gold"] for refused in found["refused"]] == ["{x y z"]


def test_a_plan_is_that_of_its_file(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against the table beside the JSON."""
    found = rethink("plan", "demo-think-twice", "--json", "--out", "plan.json")
    assert document(found) == file_of(tmp_path / "plan.json")
