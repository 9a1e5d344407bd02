"""`rethink train`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rethink.commands.console import print_result
from rethink.commands.train import evaluation_line, expand_run_folder, progress_note, rate_table
from rethink.evaluation.fresh import NO_CONTROL
from rethink.evaluation.intervals import Estimate
from rethink.recipe import load_recipe
from rethink.training.trackers import open_trackers
from support.command_line import PLAIN, Rethink, assert_one_message
from support.report_runs import embedded

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


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_missing_tracker_is_told_before_large_imports(
    rethink: Rethink, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Guards against seconds of importing torch before the command says that a tracker is not installed."""
    monkeypatch.setattr(open_trackers, "find_spec", lambda _: None)
    for module in ("rethink.training.run", "rethink.training.check"):
        monkeypatch.setitem(sys.modules, module, None)
    assert_one_message(rethink("train", "demo-grpo", 'trackers=["mlflow"]', *options), "mlflow is not installed")


def test_a_dry_run_finds_mistakes(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a dry run that approves of what the run refuses."""
    file = rethink("train", recipe(tmp_path), "--dry-run", "problems.source=no.jsonl")
    assert (file.code, file.out, file.err) == (2, "", "rethink: there is no file no.jsonl\n")
    reward = rethink("train", recipe(tmp_path), "--dry-run", 'rewards.0={function="brevity"}')
    assert_one_message(reward, "a function is 'verdict' or module:function, not 'brevity'")
    assert_one_message(rethink("train", "demo-grpo", "--dry-run", "method.n_solve=1"), "must be at least")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["copy", "copy/config.toml"])
def test_a_copied_run_is_the_run_itself(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against `train copy/config.toml --resume` that resumes the original, which the file names as `out`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy" / "checkpoints").mkdir(parents=True)
    (tmp_path / "copy" / "config.toml").write_text('out = "original"\n')
    assert expand_run_folder(given, ["updates=9"]) == ("copy/config.toml", ['out="copy"', "updates=9"])
    assert expand_run_folder("other.toml", []) == ("other.toml", [])


def test_train_writes_a_run_folder_and_refuses_to_overwrite_it(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against a run folder that does not explain itself, and against a second run on top of it."""
    settings = [f"model.path={model}", *SMALL, "out=run", "evaluation.problems={source = 'countdown', limit = 3}"]
    settings += ["evaluation.sampling.max_tokens=5", "evaluation.at_start=true"]
    found = rethink("train", recipe(tmp_path), *settings)
    assert found.code == 1, "a random model never scores"
    assert [line[:11].strip() for line in found.out.splitlines()[1:3]] == ["start model", "trained"]
    assert "held-out at the start: solve 0.0 [" in found.err
    assert "compare: rethink compare run/eval/000000.jsonl run\n" in found.err
    compared = rethink("compare", "run/eval/000000.jsonl", "run")
    assert (compared.code, "+0.0 [" in compared.out) == (0, True)
    assert {"config.toml", "metrics.jsonl", "samples.jsonl", "eval", "checkpoints"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert {p.name for p in (tmp_path / "run" / "eval").iterdir()} == {"000000.jsonl", "000002.jsonl"}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [(r["update"], r["phase"]) for r in metrics]
    assert logged == [(0, "evaluation"), (1, "solve"), (2, "refine"), (2, "evaluation")]
    assert (metrics[0]["n_problems"], metrics[3]["n_problems"]) == (3, 3)
    assert_one_message(rethink("train", recipe(tmp_path), *settings), "run already holds a run or an evaluation")
    again = rethink("train", recipe(tmp_path), *settings, "updates=1", "--resume")
    assert "the run has made 2 updates already, and updates = 1\n" in again.err
    other = rethink("train", recipe(tmp_path), *settings, "training.lr=0.5", "--resume")
    assert_one_message(other, "training.lr was 1e-06, now 0.5")
    onto = rethink("eval", model, "--on", "countdown", "--out", "run", *PLAIN, "evaluation.problems.limit=2")
    assert_one_message(onto, "run already holds a run or an evaluation")


def test_training_in_bfloat16_is_refused(rethink: Rethink, tmp_path: Path) -> None:
    """At a learning rate of 1e-6, AdamW's steps vanish in bfloat16 weights, and nothing is learned."""
    assert_one_message(rethink("train", "demo-grpo", "model.dtype=bfloat16", "out=run"), "training.autocast")
    assert not (tmp_path / "run").exists()


def test_custom_method_in_the_current_folder(rethink: Rethink, tmp_path: Path) -> None:
    """Regression: the console script did not look into the current folder."""
    (tmp_path / "my_method.py").write_text("from rethink.methods import GRPO\n\nclass Mine(GRPO):\n    pass\n")
    done = rethink("train", "demo-grpo", "method.name=my_method:Mine", "method.n_solve=5", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "with my_method:Mine" in done.out


def test_the_table_shows_whole_numbers_on_a_narrow_screen(rethink: Rethink, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against intervals cut to "61.2 [5…" by a long name or 80 columns."""
    estimate = Estimate(0.6125, 0.5931, 0.6312, 2000)
    undefined = Estimate(math.nan, math.nan, math.nan, 0)
    row: dict[str, Any] = {"solve": vars(estimate), "refined": vars(estimate), "fix": vars(undefined)}
    row |= {"damage": vars(estimate), "fix_fresh": vars(undefined), "damage_fresh": vars(estimate), "n_not_graded": 0}
    print_result(rate_table({"/a/long/path" * 10: row}))
    shown = capsys.readouterr().out
    assert shown.count("61.3 [59.3, 63.1]") == 3
    assert shown.count("undefined") == 2
    assert "parentheses" not in shown
    # Fresh answers have no interval: the demo's table has 120 columns.
    row |= {"fix": vars(estimate), "fix_fresh": vars(estimate), "updates": 160, "seconds": 100}
    head, line = rate_table({"think_twice": row}, ("updates", "seconds")).splitlines()
    titles = ["solve", "refined", "fix rate", "fresh", "damage rate", "fresh", "updates", "seconds"]
    assert re.split("  +", head.strip()) == titles
    assert line.split()[-3:] == ["61.3", "160", "100"]
    assert len(head) <= 120


def test_progress_shows_reward_and_imitation_loss() -> None:
    """By hand; guards against a method that samples and imitates, whose reward cannot be seen while it runs."""
    recent: list[float] = []
    rise = {"phase": "rise", "reward": 0.25, "nll_nats": 0.3125}
    assert progress_note(rise, recent) == "rise reward 0.25, mean 0.25, nll 0.312"
    assert progress_note({"phase": "solve", "reward": 0.75}, recent) == "solve reward 0.75, mean 0.50"
    assert progress_note({"phase": "imitate", "nll_nats": 0.5}, recent) == "nll 0.500"
    assert progress_note({"phase": "merge", "reward": math.nan}, recent) == "merge"
    assert recent == [0.25, 0.75]


def test_a_table_without_fresh_answers_says_why() -> None:
    """Guards against fix and damage rates that look good for want of a control; silent where nothing was refined."""
    estimate, none = vars(Estimate(0.6125, 0.5931, 0.6312, 2000)), vars(Estimate(math.nan, math.nan, math.nan, 0))
    row: dict[str, Any] = dict.fromkeys(("solve", "refined", "fix", "damage"), estimate) | {"n_not_graded": 0}
    row |= {"fix_fresh": none, "damage_fresh": none}
    lines = rate_table({"held-out": row}).splitlines()
    assert "fresh" not in lines[0]
    assert lines[2:] == [NO_CONTROL]
    assert NO_CONTROL not in rate_table({"held-out": row | dict.fromkeys(("refined", "fix", "damage"), none)})
    both = rate_table({"start": row | dict.fromkeys(("fix_fresh", "damage_fresh"), estimate), "held-out": row})
    assert both.splitlines()[2].split()[-1] == "undefined"
    assert NO_CONTROL not in both


def test_the_rates_of_a_run_have_bounds_if_replies_were_not_graded() -> None:
    """Guards against held-out rates of the replies that could be graded alone, in the middle of a run and at its end."""
    estimate, none = vars(Estimate(0.6125, 0.5931, 0.6312, 2000)), vars(Estimate(math.nan, math.nan, math.nan, 0))
    solve = {**estimate, "at_least": 0.6, "at_most": 0.62}
    row: dict[str, Any] = {"solve": solve, "refined": estimate, "fix": none, "damage": none, "n_not_graded": 40}
    row |= {"fix_fresh": none, "damage_fresh": none}
    lines = rate_table({"held-out": row}).splitlines()
    assert lines[1].split("  ")[1].strip() == "61.3 [59.3, 63.1] (60.0 to 62.0)"
    assert lines[2].startswith("in parentheses: the accuracy if all replies that were not graded are wrong, ")
    line = evaluation_line({**row, "update": 5})
    start = (
        "held-out after update 5: solve 61.3 [59.3, 63.1] (60.0 to 62.0), refined 61.3 [59.3, 63.1]; in parentheses: "
    )
    assert line.startswith(start)
    assert evaluation_line({**row, "solve": estimate, "update": 5, "n_not_graded": 0}).endswith(
        "refined 61.3 [59.3, 63.1]"
    )
    row |= {"fix": estimate, "fix_fresh": estimate, "n_not_graded": 0}
    assert evaluation_line({**row, "update": 5}).endswith(", fix rate 61.3 [59.3, 63.1], fresh 61.3")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("problems_per_batch=7", "problems_per_batch is 7, but there are only 5 training problems"),
        ("evaluation.problems.limit=5", "evaluation.problems.source is missing: name the problems to evaluate on"),
        ("evaluation.problems={source = 'countdown', split = 'train'}", "held-out problems are also training problems"),
        ("--resume", "holds no run to resume"),
    ],
)
def test_runs_that_cannot_start(rethink: Rethink, tmp_path: Path, model: Path, setting: str, message: str) -> None:
    """Guards against empty batches, an evaluation on what was trained on, and a new run in a misspelt folder."""
    assert_one_message(rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, setting), message)


OWN = """
def raises(reply, gold):
    raise KeyError(gold)


def never(reply, gold):
    return False
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "alarm"),
    [
        (
            ["problems.verifier=verifiers_of_train:never"],
            "the replies to a prompt have equal rewards in every group (all are 0)",
        ),
    ],
)
def test_a_run_that_trains_nothing_says_so(
    rethink: Rethink, tmp_path: Path, model: Path, settings: list[str], alarm: str
) -> None:
    """Guards against hours of training that change nothing, an empty list of alarms and exit code 0; and against a warning
    for each update.
    """
    found = rethink("train", recipe_of(tmp_path), f"model.path={model}", *SMALL, *settings, "out=run")
    assert found.code == 1
    assert found.err.count("warning: update") == 1
    assert "warning: the run has trained nothing" in found.err
    assert "alarm in 2 of 2 updates, first in update 1: nothing was trained: " in found.err
    updates = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [len(record["alarms"]) for record in updates] == [1, 1]
    assert alarm in updates[0]["alarms"][0]
    page = (tmp_path / "run" / "report.html").read_text()
    assert alarm in embedded(page, "document")["runs"][0]["alarms"][0]["text"]
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_verifier_that_always_fails_stops_the_run(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against a run that samples for hours and grades nothing."""
    settings = ["problems.verifier=verifiers_of_train:raises", "updates=40", "out=run"]
    found = rethink("train", recipe_of(tmp_path), f"model.path={model}", *SMALL, *settings)
    assert found.code == 2
    reason = "verifiers_of_train:raises failed: KeyError: '26'"
    assert f"no reply of the first problem batch could be graded (first reason: {reason})" in found.err


def recipe_of(folder: Path) -> Path:
    """Write problems, verifiers and a recipe that names the problems."""
    (folder / "verifiers_of_train.py").write_text(OWN)
    rows = [{"question": f"{n} 7 5 -> 26", "answer": "26"} for n in range(5)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recipe(folder, "[problems]", 'source = "problems.jsonl"')
