"""The command line: `rethink demo | train | eval | answer | serve | compare | cross | grade | plan | prepare | ...`.

Here the commands become one app, each when it is asked for; `commands/arguments/` has what each takes. A user's mistake
ends with one message and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rethink.commands.console import print_error, warnings_as_notes
from rethink.commands.output_streams import lasting_output
from rethink.distributed import should_report, under_torchrun
from rethink.errors import UserError
from rethink.signals import interrupt_on_sigterm
from rethink.version import __version__

TRAINING = ("demo", "recipes", "new", "train", "plan", "prepare", "export")
COMMANDS = (*TRAINING, "eval", "compare", "cross", "grade", "report", "view", "answer", "serve")
"""In the order of `rethink --help`."""

EXIT_CODES = (
    "Exit codes: 0 done; 1 the run has trained nothing, a gold answer was refused, or a bug; 2 a mistake that the message "
    "explains; 130 stopped by Ctrl-C (129 SIGHUP, 143 SIGTERM). Results go to stdout, everything else to stderr "
    "(docs/command-line.md)."
)


class _Commands(Mapping[str, Any]):
    """The commands by name. Each is made from its function's signature when it is first asked for: a program that runs one
    command does not make the others."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        if name not in self._made:
            module = "evaluate" if name == "eval" else name
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            import_module(f"rethink.commands.arguments.{module}").COMMAND.add_to(alone)
            self._made[name] = typer.main.get_command(alone)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    """The program with its commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": _Commands()})


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train language models to solve problems and to improve their own answers, and measure whether they do.",
    epilog=f"Start with: rethink demo\n\n{EXIT_CODES}",
)


def main() -> None:
    """Run the command line."""
    with lasting_output(), warnings_as_notes():
        try:
            _check_surroundings()
            with interrupt_on_sigterm(unless=under_torchrun()):  # a waiting rank runs no handler
                app()
        except UserError as err:
            if should_report(err):
                print_error(str(err))
            if under_torchrun():
                os._exit(2)  # a normal exit could wait for connections to lost processes
            sys.exit(2)


def _check_surroundings() -> None:
    """Let modules be imported from the current folder. Raise UserError for arguments that no file of ours could hold."""
    try:
        # A console script does not search the current folder for modules, but module:Class and module:function need it.
        sys.path.insert(0, str(Path.cwd()))
    except FileNotFoundError as err:
        raise UserError("the current folder no longer exists; change to another one") from err
    if sys.flags.optimize > 1:
        raise UserError("PYTHONOPTIMIZE=2 (python -OO) removes docstrings that transformers reads; unset it")
    for word in sys.argv[1:]:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{word} is not valid UTF-8; rename the file or folder")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
