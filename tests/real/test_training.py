"""Training of a real model, with the shipped tiny model: turns, budgets, and rows that agree with the runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from real import training
from real.result_files import Row, read_rows

WORLD = [
    "evaluation.problems.limit=6",
    "evaluation.sampling.max_tokens=44",
    "evaluation.every=2",
    "sampling.max_tokens=44",
    "problems_per_batch=2",
]


def study(folder: Path, *options: str) -> list[Row]:
    files = ["--csv", str(folder / "real.csv"), "--kept", str(folder / "kept")]
    training.main(["tiny-signs", str(folder / "runs"), *WORLD, "--start-updates", "2", *files, *options])
    return read_rows(folder / "real.csv")


def spent(folder: Path, run: str) -> int:
    return training.n_sampled(training.metrics(folder / "runs" / run))


@pytest.mark.slow
def test_arms_take_turns_until_their_tokens_are_spent(tmp_path: Path) -> None:
    """Guards against a study that is stopped when one arm has all of its tokens, and another none."""
    study(tmp_path, "--tokens", "2000", "--turn", "500", "--minutes", "0")
    assert [one["update"] for one in training.metrics(tmp_path / "runs" / "start")] == [1]
    assert not (tmp_path / "runs" / "grpo-0").exists()
    study(tmp_path, "--tokens", "2000", "--turn", "500")
    for run in ("grpo-0", "think-twice-0"):
        records = [one for one in training.metrics(tmp_path / "runs" / run) if one["phase"] != "evaluation"]
        before = [one for one in records if one["batch"] < records[-1]["batch"]]  # a batch has one or two updates
        assert spent(tmp_path, run) >= 2000 > training.n_sampled(before)
        assert [one["update"] for one in records] == list(range(1, len(records) + 1))


@pytest.mark.slow
def test_rows_agree_with_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against tokens of evaluations that count as training, tokens of later updates, and rates in wrong columns."""
    rows = study(tmp_path, "--arms", "think-twice", "--tokens", "1500")
    assert [row["update"] for row in rows][:3] == ["0", "2", "4"]
    lines = (tmp_path / "runs" / "think-twice-0" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for row in rows:
        before = [one for one in records if one["phase"] != "evaluation" and one["update"] <= int(row["update"])]
        assert int(row["sampled_tokens"]) == sum(one["n_sampled_tokens"] for one in before)
        (found,) = (one for one in records if one["phase"] == "evaluation" and one["update"] == int(row["update"]))
        assert float(row["fix_high"]) == pytest.approx(found["fix"]["high"], abs=1e-4)
        assert float(row["refined"]) == pytest.approx(found["refined"]["value"], abs=1e-4)
    assert rows[0]["seconds"] == "0"
    assert float(rows[-1]["seconds"]) > 0
    printed = capsys.readouterr().out
    assert "| think-twice, seed 0 | 0 | 0 |" in printed
    assert study(tmp_path, "--arms", "think-twice", "--tokens", "1500") == rows


def test_an_unknown_arm_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study(tmp_path, "--arms", "grpo,nothing")
    assert "no such arms: nothing" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("start_updates", ["0", "1"])
def test_arms_train_an_adapter(start_updates: str, tmp_path: Path) -> None:
    """Regression: the imitation trained an adapter, too, from which no other run can begin; and without imitation, runs
    began with a folder that was not there."""
    options = ["--arms", "grpo", "--tokens", "300", "--start-updates", start_updates]
    rows = study(tmp_path, *options, "lora.rank=2")
    assert [row["update"] for row in rows] == ["0", "1"]
    kept = (tmp_path / "kept" / "grpo-0.jsonl").read_text()
    assert kept == (tmp_path / "runs" / "grpo-0" / "metrics.jsonl").read_text()
    assert (tmp_path / "runs" / "start").exists() == (start_updates == "1")
