"""The demo with two updates: what it trains, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rethink.commands.demo import METHODS, mean_over_seeds, other_methods, read_seeds, run_demo
from rethink.errors import UserError
from rethink.jsonl import read_lines, to_json
from rethink.models.bundled import TINY_MODEL
from rethink.problems import countdown
from rethink.problems.source import load_problems, refuse_overlap
from rethink.recipe import Recipe, load_recipe
from rethink.recipes import find
from rethink.run_folder import START
from rethink.training.loop import train
from rethink.training.run import open_run


def load_limited(limit: str, name: str, settings: Sequence[str] = ()) -> Recipe:
    return load_recipe(name, [*settings, limit])


N_HELD_OUT = 67
"""Held-out problems of the demo here; there are 1,631."""


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    limited = partial(load_limited, f"evaluation.problems.limit={N_HELD_OUT}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rethink.commands.demo.load_recipe", limited)
        run_demo([3], folder, 2, [])
    return folder


@pytest.mark.slow
def test_summary_has_every_promised_key(demo_folder: Path) -> None:
    """Somebody reads summary.json with a script."""
    summary = json.loads((demo_folder / "summary.json").read_text())
    assert set(summary) == {"start", *METHODS, "updates", "seconds", "seed", "problems"}
    assert (summary["updates"], summary["seed"]) == (2, 3)
    assert summary["problems"] == N_HELD_OUT
    for name in ("start", *METHODS):
        for rate in ("solve", "refined", "fix", "fix_fresh", "damage", "damage_fresh"):
            estimate = summary[name][rate]
            assert set(estimate) == {"value", "low", "high"}
            assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    with pytest.raises(UserError, match="holds a finished demo"):
        run_demo([3], demo_folder, 2, [])


@pytest.mark.slow
def test_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against one seed's numbers for all, and means that are not those of the seeds' own files."""
    monkeypatch.setattr("rethink.commands.demo.load_recipe", partial(load_limited, "evaluation.problems.limit=13"))
    folder = tmp_path / "d"
    run_demo([3, 4], folder, 2, [])
    summary, *each = (json.loads((folder / name / "summary.json").read_text()) for name in (".", "seed-3", "seed-4"))
    assert (summary["seeds"], [one["seed"] for one in each]) == ([3, 4], [3, 4])
    for name in ("start", *METHODS):
        values = [one[name]["refined"]["value"] for one in each]
        assert summary[name]["refined"]["value"] == pytest.approx(sum(values) / 2)
    found = summary["minus_grpo"]["think_twice"]
    gaps = [pair["differences"]["refined"]["countdown"]["value"] for pair in found["pairs"]]
    assert gaps == pytest.approx(
        [one["think_twice"]["refined"]["value"] - one["grpo"]["refined"]["value"] for one in each]
    )
    assert found["over_seeds"]["refined"]["countdown"]["value"] == pytest.approx(sum(gaps) / 2)
    shown = capsys.readouterr().out
    for heading in (
        "seed 3",
        "seed 4",
        "mean over seeds 3, 4, with 95% intervals over seeds",
        "think_twice minus grpo, in points",
    ):
        assert f"\n{heading}" in f"\n{shown}"
    assert sorted(path.name for path in folder.iterdir()) == ["seed-3", "seed-4", "summary.json"]
    with pytest.raises(UserError, match="seed-3 holds a finished demo"):
        run_demo([3], folder / "seed-3", 2, [])
    with pytest.raises(UserError, match="d holds a finished demo"):
        run_demo([3, 4], folder, 2, [])


@pytest.mark.slow
def test_runs_begin_with_the_start_model(demo_folder: Path, tmp_path: Path) -> None:
    """Guards against curves without their first point, and a first point that is not what the run itself measures."""
    settings = [f"out={tmp_path / 'run'}", "seed=3", "updates=2", f"evaluation.problems.limit={N_HELD_OUT}"]
    own = next(train(open_run(load_recipe("demo-think-twice", [*settings, "evaluation.at_start=true"]))))
    answers = (tmp_path / "run" / START).read_bytes()
    timed = {"unix_s", "evaluate_s"}
    for name in METHODS:
        records = [record for _, record in read_lines(demo_folder / name / "metrics.jsonl")]
        assert [record["update"] for record in records if record["phase"] == "evaluation"] == [0, 2]
        assert records[0].keys() == own.keys()
        found = {key: value for key, value in records[0].items() if key not in timed}
        assert found == json.loads(to_json({key: value for key, value in own.items() if key not in timed}))
        assert (demo_folder / name / START).read_bytes() == answers


def test_means_over_seeds_by_hand() -> None:
    """Guards against intervals over problems that are averaged; Student's are 0.5 -+ 12.706 * 0.02, and 0.5 -+ 12.706 * 0.1
    for the gain, cut at -1 and 1. Replies of one run were not graded."""
    limits = {"low": 0.0, "high": 1.0, "n": 9}
    rows: list[dict[str, Any]] = []
    for value, bounds in ((0.48, (0.38, 0.58)), (0.52, (None, None))):
        solve = {"value": value, **limits, "at_least": bounds[0], "at_most": bounds[1]}
        gain = {"value": 5 * value - 2, **limits, "at_least": None, "at_most": None}
        row = {"updates": 2, "n_problems": 9, "n_not_graded": int(value == 0.48), "solve_tokens": 3.0}
        rows.append(row | {"solve": solve, "gain": gain})
    found = mean_over_seeds(rows)
    solve, gain = found.pop("solve"), found.pop("gain")
    assert found == {"updates": 2, "n_problems": 9, "n_not_graded": 1}
    assert [solve[key] for key in ("value", "low", "high")] == pytest.approx([0.5, 0.245876, 0.754124], abs=1e-5)
    assert [gain[key] for key in ("value", "low", "high")] == pytest.approx([0.5, -0.77062, 1], abs=1e-5)
    assert [solve[key] for key in ("n", "at_least", "at_most")] == [2, pytest.approx(0.45), pytest.approx(0.55)]


def test_seeds_are_read_or_refused() -> None:
    """Guards against a run that counts twice, and a traceback after a typing mistake."""
    assert (read_seeds("7"), read_seeds("0, 1,2")) == ([7], [0, 1, 2])
    for text in ("", "a", "0,", "0;1", "1.5"):
        with pytest.raises(UserError, match=r"--seeds takes whole numbers with commas, such as 0,1,2, not "):
            read_seeds(text)
    with pytest.raises(UserError, match="--seeds has a seed twice: 0,1,0"):
        read_seeds("0,1,0")


@pytest.mark.slow
def test_both_methods_see_the_same_problems_in_the_same_order(demo_folder: Path) -> None:
    """A comparison at equal updates needs equal data: ThinkTwice's first batch is GRPO's first batch."""
    first = {}
    for name in METHODS:
        lines = (demo_folder / name / "samples.jsonl").read_text().splitlines()
        records = [r for r in map(json.loads, lines) if r["batch"] == 0 and r["phase"] == "solve"]
        first[name] = [(r["problem"], r["reply"]) for r in records]
    assert first["grpo"] == first["think_twice"]
    assert len(first["grpo"]) > 1


@pytest.mark.slow
def test_warm_start_and_demo_share_no_instance_with_the_held_out_problems() -> None:
    """Guards against held-out problems that were seen, in whatever order of their numbers."""
    held_out = countdown.problems("test")
    for name in ("warm-start", "demo-grpo", "demo-think-twice"):
        recipe = load_recipe(find(name))
        assert recipe.problems.split == "train"
        refuse_overlap(load_problems(recipe.problems), held_out)


def test_the_demo_recipes_differ_in_the_method_alone() -> None:
    """A learning rate or a length that favors one of the two."""
    recipes = [load_recipe(find(f"demo-{name.replace('_', '-')}"), ["out=x", "method.name=grpo"]) for name in METHODS]
    assert recipes[0] == recipes[1]


def test_the_tiny_model_is_small() -> None:
    """The package must stay light: at most 3 MB for the weights."""
    assert (TINY_MODEL / "model.safetensors").stat().st_size <= 3_000_000


def test_unknown_methods_are_named(tmp_path: Path) -> None:
    """Guards against a demo that trains for a minute before it says so."""
    with pytest.raises(UserError, match="not 'gspo'"):
        run_demo([0], tmp_path / "d", 2, ["grpo", "gspo"])
    assert not (tmp_path / "d").exists()


def test_other_methods_are_those_with_a_demo_recipe() -> None:
    """Guards against a method of the demo that its help does not know, and against data recipes that count as methods."""
    found = other_methods()
    assert {"gsr", "pag", "score", "ton"} <= {*found}
    assert not {"grpo", "grpo_signs", "gsr_data"} & {*found}


@pytest.mark.slow
@pytest.mark.parametrize("names", [["gsr", "reflect_retry_reward"], ["pag", "ton"]])
def test_other_methods_from_the_same_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Guards against a method of the demo that does not run: GSR brings its teacher, GRPO, and prepares its data."""
    for command, limit in (("demo", "evaluation.problems.limit=5"), ("prepare", "problems.limit=200")):
        limited = partial(load_limited, limit)
        monkeypatch.setattr(f"rethink.commands.{command}.load_recipe", limited)
    run_demo([3], tmp_path / "d", 2, names)
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    trained = ["grpo", *names] if "gsr" in names else names
    assert [name for name in summary if name in ("start", "grpo", *other_methods())] == ["start", *trained]
    assert {file.stem for file in (tmp_path / "d").glob("*.parquet")} == {"gsr", "ton"} & {*names}
    for name in trained:
        first = "ton-start" if name == "ton" else name
        assert 'path = "tiny-signs"' in (tmp_path / "d" / first / "config.toml").read_text()


def test_no_method_stands_for_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the README's demo: GRPO and ThinkTwice from the first stage of the tiny model."""
    seen: list[str] = []

    def stop(recipe: Recipe, file: Path) -> dict[str, Any]:
        seen.append(recipe.model.path)
        raise UserError("enough")

    monkeypatch.setattr("rethink.commands.demo.evaluate_start", stop)
    methods: list[list[str]] = [[], ["think_twice"], ["gsr"]]
    for n, names in enumerate(methods):
        with pytest.raises(UserError, match="enough"):
            run_demo([0], tmp_path / str(n), 2, names)
    assert seen == ["tiny", "tiny", "tiny-signs"]
