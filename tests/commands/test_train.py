"""`rethink train`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rethink.commands.console import print_result
from rethink.commands.train import rate_table
from rethink.evaluation.intervals import Estimate
from rethink.recipe import load_recipe
from support.command_line import PLAIN, Rethink, assert_one_message

SMALL = [
    *PLAIN,
    *("method.n_solve=3", "method.n_refine=2"),
    "problems.limit=5",
    "sampling.max_tokens=5",
    "problems_per_batch=2",
    "updates=2",
]


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen3"]


def recipe(folder: Path, *lines: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_dry_run_prints_the_settings_and_writes_nothing(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a dry run that loads a model or makes a folder, and against a print-out that is no recipe."""
    given = ["model.path=nobody/no-such-model", *SMALL, 'prompts.system=":x: [bold]no markup[/bold]"']
    file = recipe(tmp_path, "seed = 7")
    found = rethink("train", file, *given, "--dry-run")
    assert found.code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]
    (tmp_path / "printed.toml").write_text(found.out)
    assert load_recipe(tmp_path / "printed.toml").prompts == load_recipe(file, given).prompts
    assert load_recipe(tmp_path / "printed.toml").seed == 7
    assert "2 updates" in found.out


def test_a_dry_run_finds_mistakes(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a dry run that approves of what the run refuses."""
    found = rethink("train", recipe(tmp_path), "--dry-run", "problems.source=no.jsonl")
    assert found.code == 2
    assert found.err.startswith("rethink: there is no file no.jsonl")
    reward = rethink("train", recipe(tmp_path), "--dry-run", 'rewards.0={function="brevity"}')
    assert_one_message(reward, "a function is 'verdict' or module:function, not 'brevity'")


@pytest.mark.slow
def test_train_writes_a_run_folder_and_refuses_to_overwrite_it(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against a run folder that does not explain itself, and against a second run on top of it."""
    settings = [f"model.path={model}", *SMALL, "out=run", "evaluation.problems={split = 'test', limit = 3}"]
    settings.append("evaluation.sampling.max_tokens=5")
    found = rethink("train", recipe(tmp_path), *settings)
    assert found.code == 0
    assert "held-out" in found.out
    assert {"config.toml", "metrics.jsonl", "samples.jsonl", "eval", "checkpoints"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert [p.name for p in (tmp_path / "run" / "eval").iterdir()] == ["000002.jsonl"]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["update"], r["phase"]) for r in metrics] == [(1, "solve"), (2, "refine"), (2, "evaluation")]
    assert metrics[2]["n_problems"] == 3
    again = rethink("train", recipe(tmp_path), *settings)
    assert_one_message(again, "run already holds a run; resume it with --resume, or choose another folder with out=DIR")
    other = rethink("train", recipe(tmp_path), *settings, "training.lr=0.5", "--resume")
    assert_one_message(other, "training.lr was 1e-06, now 0.5")
    onto = rethink("eval", model, "--on", "countdown", "--out", "run", *PLAIN, "evaluation.problems.limit=2")
    assert_one_message(onto, "run already holds an evaluation or a run")


def test_training_in_bfloat16_is_refused(rethink: Rethink, tmp_path: Path) -> None:
    """At a learning rate of 1e-6, AdamW's steps vanish in bfloat16 weights, and nothing is learned."""
    done = rethink("train", "demo-grpo", "model.dtype=bfloat16", f"out={tmp_path}/run")
    assert done.code == 2
    assert "training.autocast" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["method.solve.n_steps=0", "method.n_solve=1"])
def test_hyperparameters_out_of_range(rethink: Rethink, setting: str) -> None:
    """Guards against a traceback, or an empty update, long after the start."""
    done = rethink("train", "demo-grpo", setting, "--dry-run")
    assert done.code == 2
    assert "must be at least" in done.err


def test_custom_method_in_the_current_folder(rethink: Rethink, tmp_path: Path) -> None:
    """The console script does not look into the current folder by itself: module:Class was never found."""
    (tmp_path / "my_method.py").write_text("from rethink.methods import GRPO\n\nclass Mine(GRPO):\n    pass\n")
    done = rethink("train", "demo-grpo", "method.name=my_method:Mine", "method.n_solve=5", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "with my_method:Mine" in done.out


def test_the_table_shows_whole_numbers_on_a_narrow_screen(rethink: Rethink, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against intervals cut to "61.2 [5…" by a long name or 80 columns."""
    estimate = Estimate(0.6125, 0.5931, 0.6312, 2000)
    undefined = Estimate(math.nan, math.nan, math.nan, 0)
    rates = {"solve": estimate, "refined": estimate, "fix": undefined, "damage": estimate}
    row = {name: vars(value) for name, value in rates.items()}
    print_result(rate_table({"/a/long/path" * 10: row}))
    shown = capsys.readouterr().out
    assert shown.count("61.3 [59.3, 63.1]") == 3
    assert shown.count("undefined") == 1


def test_unknown_method(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against another method than the one that was asked for."""
    assert_one_message(
        rethink("train", recipe(tmp_path, '[method]\nname = "ppo"')), "unknown method 'ppo'", "think_twice"
    )


def test_too_few_problems(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against an empty batch or a division by zero batches per pass."""
    found = rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, "problems_per_batch=7")
    assert_one_message(found, "problems_per_batch is 7, but there are only 5 training problems")


def test_training_on_the_held_out_problems(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against an evaluation on what was trained on."""
    found = rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, "evaluation.problems.split=train")
    assert_one_message(found, "held-out problems are also training problems")


def test_resume_without_a_run(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against a new run in a misspelt folder."""
    found = rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, "--resume")
    assert_one_message(found, "holds no run to resume")
