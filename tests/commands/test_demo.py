"""The demo with two updates: what it trains, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.commands.demo import METHODS, OTHERS, run_demo
from rethink.errors import UserError
from rethink.evaluation.answers import read_answers
from rethink.models.bundled import TINY_MODEL
from rethink.problems import countdown
from rethink.problems.source import load_problems, refuse_overlap
from rethink.recipe import Recipe, load_recipe
from rethink.recipes import find

N_HELD_OUT = 67
"""Held-out problems of the demo here; there are 1,631."""


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    limit = f"evaluation.problems.limit={N_HELD_OUT}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rethink.commands.demo.load_recipe", lambda file, given: load_recipe(file, [*given, limit]))
        run_demo(3, folder, 2, [])
    return folder


@pytest.mark.slow
def test_summary_has_every_promised_key(demo_folder: Path) -> None:
    """Somebody reads summary.json with a script."""
    summary = json.loads((demo_folder / "summary.json").read_text())
    assert set(summary) == {"start", *METHODS, "updates", "seconds", "seed", "problems"}
    assert (summary["updates"], summary["seed"]) == (2, 3)
    assert summary["problems"] == N_HELD_OUT
    for name in ("start", *METHODS):
        for rate in ("solve", "refined", "fix", "damage"):
            estimate = summary[name][rate]
            assert set(estimate) == {"value", "low", "high"}
            assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1


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
def test_an_answer_per_line_drafts_with_their_refinements(demo_folder: Path) -> None:
    """Two drafts per held-out problem, each with its refinement, before training and after."""
    for file in (demo_folder / "start.jsonl", demo_folder / "grpo" / "eval" / "000002.jsonl"):
        answers = read_answers(file)
        assert [(a.problem, a.repeat) for a in answers] == [
            (p.id, n) for p in countdown.problems("test")[:N_HELD_OUT] for n in range(2)
        ]
        for one in answers:
            draft, refinement = one.steps
            assert (draft.phase, draft.index, refinement.phase) == ("solve", one.repeat, "refine")
            assert (refinement.draft, one.finals) == (0, (1,))
            assert refinement.prompt[1] == ("assistant", draft.text)


@pytest.mark.slow
def test_a_finished_demo_is_not_overwritten(demo_folder: Path) -> None:
    """Nothing is lost by typing the command again."""
    with pytest.raises(UserError, match="holds a finished demo"):
        run_demo(3, demo_folder, 2, [])


@pytest.mark.slow
def test_warm_start_and_demo_share_no_instance_with_the_held_out_problems() -> None:
    """Held-out problems that were seen, in whatever order of their numbers, would make every number here worthless."""
    held_out = countdown.problems("test")
    for name in ("warm-start", "demo-grpo", "demo-think-twice"):
        recipe = load_recipe(find(name))
        assert recipe.problems.split == "train"
        refuse_overlap(load_problems(recipe.problems), held_out)
    swapped = [countdown.problems("train")[0]]
    with pytest.raises(UserError, match="also training problems"):
        refuse_overlap(countdown.problems("train"), swapped)


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
        run_demo(0, tmp_path / "d", 2, ["grpo", "gspo"])
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_all_methods_from_the_same_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Guards against a method of the demo that does not run: GSR brings its teacher, GRPO, and prepares its data."""
    limit_demo = "evaluation.problems.limit=5"
    monkeypatch.setattr(
        "rethink.commands.demo.load_recipe", lambda name, given: load_recipe(name, [*given, limit_demo])
    )
    limit_data = "problems.limit=200"
    monkeypatch.setattr(
        "rethink.commands.prepare.load_recipe", lambda name, given: load_recipe(name, [*given, limit_data])
    )
    run_demo(3, tmp_path / "d", 2, [*OTHERS])
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert list(summary)[:5] == ["start", "grpo", *OTHERS]
    assert (tmp_path / "d" / "gsr.parquet").is_file()
    assert (tmp_path / "d" / "gsr.md").is_file()
    for name in ("grpo", *OTHERS):
        config_text = (tmp_path / "d" / name / "config.toml").read_text()
        assert 'path = "tiny-talk"' in config_text
    assert "think_tuning" in capsys.readouterr().out


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
            run_demo(0, tmp_path / str(n), 2, names)
    assert seen == ["tiny", "tiny", "tiny-talk"]
