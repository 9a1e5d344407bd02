"""The command line: one message and exit code 2 for a mistake, results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from transformers import AutoTokenizer

from rethink import cli
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
    """Guards against problems without a right answer; the row is named."""
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


def test_an_output_folder_that_cannot_be_made(rethink: Rethink, tmp_path: Path, model: Path) -> None:
    """A file where the folder should be once gave a traceback."""
    (tmp_path / "file").touch()
    trained = rethink("train", recipe(tmp_path), f"model.path={model}", *SMALL, "out=file/run")
    assert_one_message(trained, "cannot create the folder file/run")
    evaluated = rethink("eval", model, "--on", "countdown", "--out", "file/run", *PLAIN, "evaluation.problems.limit=2")
    assert_one_message(evaluated, "cannot create the folder file/run")


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


@pytest.mark.slow
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


# --------------------------------------------------------------------------------------------------------- train


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------------- eval


def test_examples_in_the_help_parse() -> None:
    """Guards against an example with an option that does not exist."""
    command_line = typer.main.get_command(cli.app)
    for name, command in command_line.commands.items():  # type: ignore[attr-defined]
        program, given, *words = shlex.split(command.epilog.removeprefix("Example: "))
        assert (program, given) == ("rethink", name)
        command.make_context(name, words)
