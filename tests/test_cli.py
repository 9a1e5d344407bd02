"""The command line: one message and exit code 2 for a mistake, results on stdout, the rest on stderr."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from rethink import cli
from rethink.commands.arguments.declared import Declared
from rethink.errors import UserError
from rethink.recipe import load_recipe
from rethink.strategies import parse_all
from rethink.version import __version__
from support.command_line import Result, Rethink, assert_one_message, in_process
from support.processes import light

DOCS = Path(__file__).parent.parent / "docs"
DECLARATIONS = Path(cli.__file__).parent / "commands" / "arguments"
APP = cli.app
COMMANDS: Mapping[str, Any] = typer.main.get_command(APP).commands  # type: ignore[attr-defined]
LIGHT = ("recipes", "recipes qwen --json", "recipes demo-grpo", "new mine --data p.csv")
"""Commands that import no large library either."""

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
def test_the_installed_command_starts(tmp_path: Path) -> None:
    """Guards against a broken entry point, and tracebacks of real processes."""
    script = Path(sys.executable).parent / "rethink"
    found = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{__version__}\n", "")


WITHOUT_LIBRARIES = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "datasets", "pyarrow", "scipy", "numpy", "openai"}:
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocker())
from rethink import cli
from rethink.commands.arguments.declared import Declared
for words in (line.split() for line in sys.argv[1:]):
    sys.argv = ["rethink", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


@pytest.mark.slow
def test_help_imports_no_large_library(tmp_path: Path) -> None:
    """Guards against help that takes seconds: a command imports what it needs when it runs."""
    (tmp_path / "p.csv").write_text("question,answer\n1 + 1?,2\n2 + 2?,4\n")
    lines = ["--help", "--version", *(f"{name} --help" for name in COMMANDS), *LIGHT]
    command = [sys.executable, "-c", WITHOUT_LIBRARIES, *lines]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("Usage: ") == len(COMMANDS) + 1


def test_only_the_command_that_runs_is_made(rethink: Rethink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against starts that make all commands, which costs more than many of them. Messages know all names."""
    made: list[str] = []
    add = Declared.add_to

    def record(self: Declared, app: typer.Typer) -> None:
        made.append(self.name or self.function.__name__)
        add(self, app)

    monkeypatch.setattr(Declared, "add_to", record)
    monkeypatch.setattr(cli, "app", typer.main.get_command(APP))
    assert rethink("recipes").code == 0
    assert "Did you mean 'train'" in rethink("trian").err
    assert made == ["recipes"]
    assert rethink("--help").code == 0
    assert sorted(made) == sorted(COMMANDS)


def test_every_declared_command_is_there() -> None:
    """Guards against a command that is declared under another name than it has, or that the program leaves out."""
    declared = [module for module in DECLARATIONS.glob("*.py") if "COMMAND = " in module.read_text()]
    assert len(declared) == len(COMMANDS)
    assert [COMMANDS[name].name for name in COMMANDS] == [*COMMANDS]


def examples(name: str) -> list[str]:
    title, *lines = COMMANDS[name].epilog.split("\n\n")
    assert title == "Examples:"
    return lines


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_parse(name: str) -> None:
    """Guards against an example with an option, recipe or setting that does not exist."""
    assert examples(name)
    for example in examples(name):
        program, given, *words = shlex.split(example)
        assert (program, given) == ("rethink", name)
        params = COMMANDS[name].make_context(name, words).params
        named = [params.get(key) or [] for key in ("settings", "models", "question")]
        settings = [word for words in named if isinstance(words, list) for word in words if "=" in word]
        if "recipe" in params:
            load_recipe(params["recipe"] or None, settings)
        if params.get("strategy"):
            assert parse_all(params["strategy"])


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_grouped(name: str) -> None:
    """Guards against a wall of options: a command with many has panels, and none of these is long."""
    panels = Counter(getattr(param, "rich_help_panel", None) for param in COMMANDS[name].params)
    assert max(panels.values()) <= 8
    assert len(COMMANDS[name].params) <= 8 or len(panels) > 2


def test_every_command_is_in_the_page_and_in_a_group() -> None:
    """Guards against a command that the documentation does not mention."""
    page = (DOCS / "command-line.md").read_text()
    groups = {command.rich_help_panel for command in COMMANDS.values()}
    assert groups == {"Train", "Evaluate", "Use a model"}
    assert [name for name in COMMANDS if f"`rethink {name}" not in page] == []


def test_exit_codes_are_those_of_the_page(rethink: Rethink) -> None:
    """Guards against help and documentation that promise different exit codes."""
    shown = " ".join(rethink("--help").out.split())
    page = (DOCS / "command-line.md").read_text()
    for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE):
        for code in row.split(", "):
            assert re.search(rf"\b{code}\b", shown.partition("Exit codes: ")[2]) or code == "137"


COLOR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:[349][0-8]|10[0-7])[\d;]*m")
PAINTED = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERM", "COLORTERM")


def help_in_a_terminal(**variables: str) -> str:
    """Return what `rethink --help` writes to a terminal."""
    shell = {name: value for name, value in os.environ.items() if name not in PAINTED}
    master, slave = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "rethink", "--help"], stdout=slave, env={**shell, "TERM": "xterm-256color", **variables}
    ) as process:
        os.close(slave)
        shown = b""
        with suppress(OSError):  # the end of a terminal's output is an error on Linux
            while data := os.read(master, 4096):
                shown += data
        assert process.wait(300) == 0
    os.close(master)
    return shown.decode()


@pytest.mark.slow
def test_colors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against colors where NO_COLOR is set or nobody sees them, and against a test that finds none anywhere."""
    assert COLOR.search(help_in_a_terminal())
    assert not COLOR.search(help_in_a_terminal(NO_COLOR="1"))
    assert "\x1b" not in help_in_a_terminal(TERM="dumb")
    for name in PAINTED:
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "rethink", "--help"]
    assert "\x1b" not in subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


SUGGESTED = {
    "rethink tra": "train",
    "rethink train thinktwice-q": "thinktwice-qwen3-4b",
    "rethink eval tiny-s": "tiny-shapes tiny-signs",
    "rethink eval tiny --on aime2": "aime24 aime25",
    "rethink eval tiny --recipe thinktwice-p": "thinktwice-protocol",
    "rethink demo --method pa": "pag",
    "rethink train demo-grpo --dry": "--dry-run",
}


@pytest.mark.parametrize(("typed", "expected"), SUGGESTED.items(), ids=SUGGESTED)
def test_completion(rethink: Rethink, monkeypatch: pytest.MonkeyPatch, typed: str, expected: str) -> None:
    """Guards against a shell that suggests nothing after TAB."""
    monkeypatch.setenv("_RETHINK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert rethink().out.split() == expected.split()


@pytest.mark.slow
def test_completion_in_bash(tmp_path: Path) -> None:
    """Guards against a script that the shell does not understand."""
    folder = Path(sys.executable).parent
    script = """
    PATH="$0:$PATH"
    eval "$(_RETHINK_COMPLETE=source_bash rethink)"
    complete -p rethink
    COMP_WORDS=(rethink train thinktwice-q) COMP_CWORD=2
    _rethink_completion rethink
    echo "${COMPREPLY[@]}"
    """
    found = subprocess.run(
        ["bash", "-c", script, str(folder)], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert found.stdout.splitlines()[-1] == "thinktwice-qwen3-4b"
    assert "_rethink_completion" in found.stdout


def test_python_without_docstrings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: with PYTHONOPTIMIZE=2 a model could not be loaded, "No `Args` section is found in the docstring"."""
    surroundings = SimpleNamespace(path=[], argv=["rethink"], flags=SimpleNamespace(optimize=2))
    monkeypatch.setattr(cli, "sys", surroundings)
    with pytest.raises(UserError, match="PYTHONOPTIMIZE=2"):
        cli._check_surroundings()
