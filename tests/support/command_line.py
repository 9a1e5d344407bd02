"""The command line in this process, for tests, and what every mistake must look like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from rethink import cli
from rethink.problems import countdown, signs

PLAIN = ["model.device=cpu", "prompts.solve={question}", "prompts.refine=again"]
"""Settings under which models as small as those of the tests can be asked something."""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Rethink = Callable[..., Result]


@cache
def _commands() -> Any:
    """Return the app as its first call makes it: each call would make all commands from their signatures again."""
    return typer.main.get_command(cli.app)


@cache
def _made_once(generator: ModuleType) -> Any:
    """Return the function that makes problems, for commands that ask for the same ones again: thousands take a while."""
    return lru_cache(maxsize=8)(generator.problems)


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Rethink:
    """Runs the command in this process, in that folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli, "app", _commands())
    for generator in (countdown, signs):
        monkeypatch.setattr(generator, "problems", _made_once(generator))

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["rethink", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return Result(int(ended.value.code or 0), shown.out, shown.err)

    return run


def command_line(*arguments: object) -> None:
    """The same in a process of its own."""
    sys.argv = ["rethink", *map(str, arguments)]
    cli.main()


def assert_one_message(found: Result, *parts: str) -> None:
    """Exit code 2, nothing on stdout, one paragraph on stderr that begins with the program's name."""
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("rethink: ")
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err
    assert [part for part in parts if part not in found.err] == []
