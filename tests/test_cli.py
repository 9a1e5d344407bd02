"""The command line: one message and exit code 2 for a mistake, results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rethink.commands.console import print_result
from rethink.commands.train import rate_table
from rethink.evaluation.answers import read_answers
from rethink.evaluation.intervals import Estimate
from rethink.problems.source import load_problems
from rethink.recipe import load_recipe
from rethink.version import __version__
from support.command_line import PLAIN, Result, Rethink, assert_one_message, in_process
from support.processes import light
from support.random_models import save_random_model

_light = pytest.fixture(scope="module", autouse=True)(light)


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen3"]


SMALL = [
    *PLAIN,
    *("method.n_solve=3", "method.n_refine=2"),
    "problems.limit=5",
    "sampling.max_tokens=5",
    "problems_per_batch=2",
    "updates=2",
]


def jsonl(folder: Path, *rows: object) -> Path:
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def recipe(folder: Path, *lines: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


# ------------------------------------------------------------------------------------------------------ mistakes


def test_unknown_key(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a run with a misspelt setting."""
    assert_one_message(rethink("train", recipe(tmp_path), "training.lrr=1"), "did you mean training.lr?")


def test_missing_recipe(rethink: Rethink) -> None:
    """Guards against a bare FileNotFoundError; the shipped recipes are listed."""
    assert_one_message(rethink("train", "demo-grop"), "no recipe file demo-grop", "demo-grpo")


def test_missing_problem_file(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against tracebacks from readers."""
    found = rethink("train", recipe(tmp_path), f"model.path={model}", "problems.source=no.jsonl")
    assert_one_message(found, "no file no.jsonl")


def test_row_without_an_answer(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against problems that nobody can solve; the row is named."""
    file = jsonl(tmp_path, {"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": None})
    found = rethink("eval", model, "--on", file, *PLAIN)
    assert_one_message(found, f"{file}, line 2: the column 'answer' is empty")
    assert not (tmp_path / "runs").exists()


def test_model_without_a_chat_template(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a made-up template; the remedy is in the message, and works."""
    bare = save_random_model(tmp_path / "bare", "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.chat_template = None
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(bare)
    evaluation = ["eval", bare, "--on", "countdown", *PLAIN, "evaluation.problems.limit=2"]
    assert_one_message(rethink(*evaluation), "no chat template", 'model.template = "plain"')
    assert rethink(*evaluation, "model.template=plain", "evaluation.sampling.max_tokens=3").code == 0


def test_a_folder_that_is_no_model(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against the library's tracebacks of many lines."""
    (tmp_path / "empty").mkdir()
    assert_one_message(rethink("eval", tmp_path / "empty", "--on", "countdown"), "cannot load the model")


def test_a_hub_model_that_cannot_be_reached(rethink: Rethink) -> None:
    """Guards against minutes of retries and a traceback without a network."""
    assert_one_message(rethink("eval", "nobody/no-such-model", "--on", "countdown"), "cannot load the model")


def test_a_hub_data_set_that_cannot_be_reached(rethink: Rethink, model: Path) -> None:
    """Guards against the hub client's tracebacks."""
    assert_one_message(rethink("eval", model, "--on", "hub:nobody/nothing"), "cannot load hub:nobody/nothing")


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


def test_an_output_folder_that_cannot_be_made(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """A file where the folder should be once gave a traceback."""
    (tmp_path / "file").touch()
    trained = rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, "out=file/run")
    assert_one_message(trained, "cannot create the folder file/run")
    evaluated = rethink("eval", model, "--on", "countdown", "--out", "file/run", *PLAIN, "evaluation.problems.limit=2")
    assert_one_message(evaluated, "cannot create the folder file/run")


def test_resume_without_a_run(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against a new run in a misspelt folder."""
    found = rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, "--resume")
    assert_one_message(found, "holds no run to resume")


USAGE = [["train"], ["eval"], ["compare", "x"], ["trian"], ["train", "x", "--rseume"], ["eval", "x", "--om", "y"]]


@pytest.mark.parametrize("arguments", USAGE)
def test_usage(rethink: Rethink, arguments: list[str]) -> None:
    """Guards against misspelt options that are ignored."""
    found = rethink(*arguments)
    assert (found.code, found.out) == (2, "")
    assert "Usage: " in found.err
    assert "Traceback" not in found.err


# ------------------------------------------------------------------------------------------------------- version


def test_version(rethink: Rethink) -> None:
    """Guards against a version that differs from the package's."""
    assert rethink("--version") == Result(0, f"{__version__}\n", "")


def test_the_installed_command_starts_without_torch(tmp_path: Path) -> None:
    """Guards against a broken entry point, tracebacks of real processes, and help that takes seconds: torch is only
    imported by the commands that need it."""
    script = Path(sys.executable).parent / "rethink"
    found = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{__version__}\n", "")
    program = "import sys, rethink.cli; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (found.stdout, found.stderr) == ("False\n", "")


# ------------------------------------------------------------------------------------------------------- dry run


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
    assert found.err.startswith("rethink: no file no.jsonl")
    reward = rethink("train", recipe(tmp_path), "--dry-run", 'rewards.0={function="brevity"}')
    assert_one_message(reward, "a function is 'verdict' or module:function, not 'brevity'")


# --------------------------------------------------------------------------------------------------------- train


def test_train_writes_a_run_folder_and_refuses_to_overwrite_it(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against a run folder that does not explain itself, and against a second run on top of it."""
    settings = [f"model.path={model}", *SMALL, "out=run", "evaluation.problems={split = 'test', limit = 3}"]
    settings.append("evaluation.sampling.max_tokens=5")
    found = rethink("train", recipe(tmp_path), *settings)
    assert found.code == 0
    assert "held-out" in found.out
    assert {"config.toml", "metrics.jsonl", "samples.jsonl", "eval", "checkpoints"} <= names(tmp_path / "run")
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


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------------- eval


def test_eval_of_a_model_that_solves_nothing(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against 0 for what is undefined: an untrained model has no right draft, so that none can be damaged."""
    given = [*PLAIN, "evaluation.n=2", "evaluation.problems.limit=5"]
    given.append("evaluation.sampling={max_tokens = 7, temperature = 1.0}")
    found = rethink("eval", model, "--on", "countdown", "--out", "e", *given)
    assert found.code == 0
    written = json.loads((tmp_path / "e" / "summary.json").read_text(), parse_constant=pytest.fail)
    summary = written["suites"]["countdown"]["strategies"]["refine"]
    asked = load_problems(load_recipe(None, ["problems.split=test", "problems.limit=5"]).problems)
    answers = read_answers(tmp_path / "e" / "answers.jsonl")
    assert [(a.problem, a.repeat) for a in answers] == [(p.id, i) for p in asked for i in range(2)]
    assert (summary["solve"]["accuracy"]["value"], summary["solve"]["accuracy"]["n"]) == (0.0, 10)
    assert (summary["n_problems"], summary["n_drafts"]) == (5, 10)
    assert summary["damage"] == {"value": None, "low": None, "high": None, "n": 0}
    header, row = found.out.splitlines()[2:4]
    assert header.split() == ["solve", "refined", "gain", "fix", "rate", "damage", "rate"]
    low, high = (100 * summary["solve"]["accuracy"][key] for key in ("low", "high"))
    assert f"0.0 [{low:.1f}, {high:.1f}]" in row
    assert row.split()[-1] == "undefined"
    assert load_recipe(tmp_path / "e" / "config.toml").evaluation.n == 2


def test_eval_refuses_a_folder_with_an_evaluation(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """Guards against answers that are overwritten; without --out each evaluation gets a folder of its own."""
    given = [
        "eval",
        model,
        "--on",
        "countdown",
        *PLAIN,
        "evaluation.problems.limit=2",
        "evaluation.sampling.max_tokens=2",
    ]
    assert rethink(*given, "--out", "e").code == 0
    assert_one_message(rethink(*given, "--out", "e"), "e already holds an evaluation or a run", "--out DIR")
    assert [rethink(*given).code for _ in range(2)] == [0, 0]
    assert names(tmp_path / "runs") == {"eval", "eval-2"}


def test_eval_of_names_with_special_letters(rethink: Rethink, tmp_path: Path) -> None:
    """Brackets in a path were once taken for rich's markup, and letters outside the BMP broke the setting's quotes."""
    odd = save_random_model(tmp_path / 'm [bold] 😀 "q"', "gpt2")
    file = tmp_path / "p [b] 😀.jsonl"
    file.write_text('{"question": "1 2 3", "answer": "6"}\n')
    found = rethink("eval", odd.name, "--on", file.name, *PLAIN, "evaluation.sampling.max_tokens=3")
    assert found.code == 0
    assert 'm [bold] 😀 "q"' in found.out


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


def test_a_method_of_ones_own_in_the_current_folder(rethink: Rethink, tmp_path: Path) -> None:
    """The console script does not look into the current folder by itself: module:Class was never found."""
    (tmp_path / "mine_own.py").write_text("from rethink.methods import GRPO\n\nclass Mine(GRPO):\n    pass\n")
    done = rethink("train", "demo-grpo", "method.name=mine_own:Mine", "method.n_solve=5", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "with mine_own:Mine" in done.out


@pytest.mark.parametrize("setting", ["method.solve.n_steps=0", "method.n_solve=1"])
def test_hyperparameters_out_of_range(rethink: Rethink, setting: str) -> None:
    """Guards against a traceback, or an empty update, long after the start."""
    done = rethink("train", "demo-grpo", setting, "--dry-run")
    assert done.code == 2
    assert "must be at least" in done.err


def test_training_in_bfloat16_is_refused(rethink: Rethink, tmp_path: Path) -> None:
    """At a learning rate of 1e-6, AdamW's steps vanish in bfloat16 weights, and nothing is learned."""
    done = rethink("train", "demo-grpo", "model.dtype=bfloat16", f"out={tmp_path}/run")
    assert done.code == 2
    assert "training.autocast" in done.err
    assert not (tmp_path / "run").exists()
