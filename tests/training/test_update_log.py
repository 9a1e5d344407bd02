"""The log of a run: each record says when it was written and in which version of the format, and a resume heeds both."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.evaluation.answers import read_answers
from rethink.jsonl import SCHEMA
from rethink.report.document import read_training
from rethink.report.folders import Source
from rethink.training.run import open_run
from rethink.training.trackers.tracker import numbers_of
from support.processes import light
from support.runs import THINK_TWICE, Make, finished, make, problems

__all__ = ["make", "problems"]

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_records_have_a_time_and_a_version(make: Make, tmp_path: Path) -> None:
    """Guards against times of another clock or unit, files without a version, and either of them as a curve."""
    before = time.time()
    rows = [{"question": f"{n} 7 5 -> 26", "answer": "26"} for n in (7, 8, 9)]
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = [f"evaluation.problems.source={tmp_path}/held-out.jsonl", "evaluation.sampling.max_tokens=5"]
    run = finished(make(*THINK_TWICE, *held_out, "evaluation.problems.verifier=support.coins:coin", "updates=4"))
    after = time.time()
    metrics = records(run.folder.metrics)
    times = [record["unix_s"] for record in metrics]
    assert [before, *times, after] == sorted([before, *times, after])
    assert [record["phase"] for record in metrics] == ["solve", "refine", "solve", "refine", "evaluation"]
    (answers,) = (run.folder.path / "eval").glob("*.jsonl")
    assert {
        record["schema"] for file in (run.folder.metrics, run.folder.samples, answers) for record in records(file)
    } == {SCHEMA}
    assert len(read_answers(answers)) == 3
    assert not [name for record in metrics for name in numbers_of(record) if "unix_s" in name or "schema" in name]
    assert not {"schema", "unix_s"} & read_training(Source(run.folder.path, "run"))["updates"].keys()


def test_a_run_of_a_newer_version_is_not_resumed(make: Make) -> None:
    """Guards against a log with records of two formats. Nothing is changed, so the newer version can resume."""
    run = finished(make(*THINK_TWICE, "updates=2"))
    for file in (run.folder.metrics, run.folder.samples):
        good = file.read_text(encoding="utf-8")
        file.write_text(good.replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'), encoding="utf-8")
        before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
        with pytest.raises(UserError, match=f"{file.name} was written by a newer version of rethink"):
            open_run(make(*THINK_TWICE, "updates=4"), resume=True)
        assert {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()} == before
        file.write_text(good, encoding="utf-8")
