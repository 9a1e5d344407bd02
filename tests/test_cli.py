"""The command line: one message and exit code 2 for a mistake, results on stdout, the rest on stderr."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from rethink import cli
from rethink.errors import UserError
from rethink.version import __version__
from support.command_line import Result, Rethink, assert_one_message, in_process
from support.processes import light

_light = pytest.fixture(scope="module", autouse=True)(light)


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


def test_missing_recipe(rethink: Rethink) -> None:
    """Guards against a bare FileNotFoundError; the shipped recipes are listed."""
    assert_one_message(rethink("train", "demo-grop"), "there is no recipe demo-grop; did you mean demo-grpo?")


@pytest.mark.parametrize("arguments", [["train"], ["trian"], ["train", "x", "--rseume"]])
def test_usage(rethink: Rethink, arguments: list[str]) -> None:
    """Guards against misspelt options that are ignored."""
    found = rethink(*arguments)
    assert (found.code, found.out) == (2, "")
    assert "Usage: " in found.err
    assert "Traceback" not in found.err


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


def test_examples_in_the_help_parse() -> None:
    """Guards against an example with an option that does not exist."""
    command_line = typer.main.get_command(cli.app)
    for name, command in command_line.commands.items():  # type: ignore[attr-defined]
        program, given, *words = shlex.split(command.epilog.removeprefix("Example: "))
        assert (program, given) == ("rethink", name)
        command.make_context(name, words)


def test_python_without_docstrings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: with PYTHONOPTIMIZE=2 a model could not be loaded, "No `Args` section is found in the docstring"."""
    surroundings = SimpleNamespace(path=[], argv=["rethink"], flags=SimpleNamespace(optimize=2))
    monkeypatch.setattr(cli, "sys", surroundings)
    with pytest.raises(UserError, match="PYTHONOPTIMIZE=2"):
        cli._check_surroundings()
