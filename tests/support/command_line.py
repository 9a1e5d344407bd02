"""The command line in this process, for tests, and what every mistake must look like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rethink import cli

PLAIN = ["model.device=cpu", "prompts.solve={question}", "prompts.refine=again"]
"""Settings under which models as small as those of the tests can be asked something."""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Rethink = Callable[..., Result]


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Rethink:
    """Runs the command in this process, in that folder."""
    monkeypatch.chdir(folder)

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
