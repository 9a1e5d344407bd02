"""The evaluation of the comparison of methods: what is evaluated, and what a run has cost."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

import zoo_evaluate
from rethink.settings import ProblemSource
from zoo import BUDGET, Job
from zoo_evaluate import (
    MORE,
    Task,
    described,
    evaluate_run,
    known_run,
    logged,
    marks_by_updates,
    tasks,
    updates_at,
    wanted,
)
from zoo_results import FIRST_STRATEGY, PAPER, T1, Answers, read_run

SOURCE = ProblemSource("signs", split="test", limit=2)
CARD = "# Data\n\nSampled tokens: 1200 by the start weights, 34 by the teacher.\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run of four updates, two of them refining, which spends both budgets with the third, and a trial."""
    folder = tmp_path / "think-twice-1"
    records = [{"phase": "evaluation", "update": 2}]
    for update in (1, 2, 3, 4):
        third = {"n_sampled_tokens": BUDGET // 3, "n_role_tokens": 1, "n_trained_tokens": BUDGET // 3 + 1}
        records.append({"phase": "solve" if update % 2 else "refine", "update": update, **third})
    for mark in ("2", "sampled", "trained"):
        (folder / "kept" / mark).mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.toml").write_text(f'[problems]\nsource = "{tmp_path}/data.parquet"\n[training]\nlr = 3e-4\n')
    (tmp_path / "data.md").write_text(CARD)
    for name in ("think-twice-1", "think-twice-rate-0.0003"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "trained").touch()
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The mark and sampling of each evaluation, which takes no time: all answers are right."""
    found: list[tuple[str, str]] = []

    def evaluate(path: str, seed: int, source: ProblemSource, sampling: str, strategies: str) -> Answers:
        found.append((Path(path).name, sampling))
        return Answers(np.ones((2, 4), dtype=bool), np.ones((2, 4), dtype=bool))

    monkeypatch.setattr(zoo_evaluate, "evaluate", evaluate)
    return found


def test_trials_are_not_evaluated(out: Path) -> None:
    """Guards against runs that tried a learning rate."""
    start = [Task("start", seed) for seed in range(8)]
    assert tasks(out) == [*start, Task("think-twice", 1, out / "think-twice-1")]
    (out / "think-twice-1" / "trained").rename(out / "think-twice-1" / Job("think-twice", 1, goes_on=True).done)
    assert tasks(out) == [*start, Task("think-twice", 1, out / "think-twice-1")]


def test_a_run_says_what_it_has_cost(out: Path, asked: list[tuple[str, str]]) -> None:
    """Guards against tokens of later updates, budgets at the wrong update, and lost tokens of prepared data."""
    evaluate_run(out / "results", SOURCE, tasks(out)[-1])
    run = read_run(out / "results" / "think-twice-1.json")
    assert (run.rate, run.prepared, run.marks) == (3e-4, 1234, {"sampled": 3, "trained": 3})
    assert {updates: (p.sampled, p.trained, p.phases) for updates, p in run.points.items()} == {
        2: (2 * (BUDGET // 3 + 1), 2 * (BUDGET // 3 + 1), {"solve": 1, "refine": 1}),
        3: (3 * (BUDGET // 3 + 1), 3 * (BUDGET // 3 + 1), {"solve": 2, "refine": 1}),
    }


def test_what_training_logged(tmp_path: Path) -> None:
    """Guards against means over other updates, and undefined values: 30 updates, of which the first and the last count."""
    records = [{"phase": "solve", "accuracy": 0.5, "method/gain": u} for u in range(1, 31)]
    records[29]["method/gain"] = math.nan
    assert logged([*records, {"phase": "refine", "accuracy": 1.0}]) == {
        "training accuracy": 0.5,
        "training accuracy at first": 0.5,
        "gain": 20.5,
        "gain at first": 3.0,
    }


def test_data_of_a_cold_start_are_counted(out: Path) -> None:
    """Guards against prepared data that cost nothing because only the cold start before the run reads them."""
    folder = out / "ton-1"
    shutil.copytree(out / "think-twice-1", folder)
    shutil.copytree(folder, out / "cold" / "ton-1")
    (folder / "config.toml").write_text('[problems]\nsource = "signs"\n[training]\nlr = 3e-4\n')
    assert described(SOURCE, Task("ton", 1, folder)).prepared == 1234


def test_existing_results_are_kept_and_equal_weights_evaluated_once(out: Path, asked: list[tuple[str, str]]) -> None:
    """Guards against an evaluation that starts anew, and against two for both budgets."""
    task = tasks(out)[-1]
    evaluate_run(out / "results", SOURCE, task)
    assert asked == [("2", T1), ("2", PAPER), ("sampled", T1), ("sampled", PAPER)]
    evaluate_run(out / "results", SOURCE, task)
    assert len(asked) == 4
    with pytest.raises(ValueError, match="of another run, or of other problems"):
        known_run(out / "results", ProblemSource("signs", split="test", limit=3), task)


def test_a_budget_that_is_not_spent_is_at_the_last_update(out: Path) -> None:
    """Guards trials with `--limit`."""
    folder = out / "think-twice-1"
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]))
    assert updates_at(folder, "trained") == 2


@pytest.mark.parametrize(("marks", "updates"), [(("2", "trained"), 3), (("2", "4"), 4)])
def test_a_run_from_prepared_data_alone(out: Path, marks: tuple[str, ...], updates: int) -> None:
    """Guards against methods that are in no table at equal sampled tokens, as their runs sample nothing."""
    folder = out / "think-twice-1"
    text = (folder / "metrics.jsonl").read_text()
    text = text.replace(
        f'"n_sampled_tokens": {BUDGET // 3}, "n_role_tokens": 1', '"n_sampled_tokens": 0, "n_role_tokens": 0'
    )
    (folder / "metrics.jsonl").write_text(text)
    shutil.rmtree(folder / "kept")
    for mark in marks:
        (folder / "kept" / mark).mkdir(parents=True)
    assert marks_by_updates(folder) == {2: ["2"], updates: [marks[1], "sampled"]}


@pytest.mark.parametrize(
    ("run", "marks", "strategies"),
    [
        ("start-5", ["start"], {T1: f"{FIRST_STRATEGY},{MORE}", PAPER: FIRST_STRATEGY}),
        ("grpo-0", ["160", "sampled"], {T1: f"{FIRST_STRATEGY},{MORE}", PAPER: FIRST_STRATEGY}),
        ("grpo-0", ["40"], {T1: FIRST_STRATEGY, PAPER: FIRST_STRATEGY}),
        ("grpo-5", ["160", "sampled"], {T1: FIRST_STRATEGY, PAPER: FIRST_STRATEGY}),
        ("grpo-5", ["320"], {T1: f"{FIRST_STRATEGY},refine:2,refine:3,refine:4", PAPER: FIRST_STRATEGY}),
        ("shuffled-0", ["160"], {T1: f"{FIRST_STRATEGY},{MORE}", PAPER: FIRST_STRATEGY}),
        ("shuffled-0", ["40"], {}),
        ("shuffled-5", ["40"], {T1: FIRST_STRATEGY, PAPER: FIRST_STRATEGY}),
    ],
)
def test_what_a_model_is_asked(run: str, marks: list[str], strategies: dict[str, str]) -> None:
    arm, seed = run.split("-")
    assert wanted(Task(arm, int(seed), None if arm == "start" else Path(run)), marks) == strategies
