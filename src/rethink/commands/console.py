"""What goes to the terminal: results to stdout, everything else to stderr; control characters are escaped."""

from __future__ import annotations

import atexit
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rethink.commands.log_lines import LogLines
from rethink.errors import UserError
from rethink.jsonl import RecordMismatchError, make_folder, to_json
from rethink.printable import printable

PACKAGE = Path(__file__).parents[1]

console = Console(stderr=True, highlight=False, emoji=False)
output = Console(highlight=False, soft_wrap=True, emoji=False)


def print_result(text: str) -> None:
    """Print a result to stdout. It is not wrapped."""
    output.print(printable(text), markup=False)


def print_json(record: Mapping[str, Any]) -> None:
    """Print a result to stdout as JSON, for programs: ASCII, so no terminal and no encoding can change it."""
    output.out(json.dumps(json.loads(to_json(record)), indent=1), highlight=False)


def print_part(text: str) -> None:
    """Print a part of a result to stdout, without a line break."""
    output.print(printable(text), markup=False, end="")


def print_note(text: str) -> None:
    """Print a note to stderr. It is not wrapped, so commands and paths can be copied."""
    console.print(printable(text), markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    print_note(f"warning: {text}")


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Inside this context, print the package's Python warnings like those of commands, without the line that gave them."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *more: Any, **named: Any) -> None:
        if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
            warn(str(message))
        else:
            usual(message, category, filename, *more, **named)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def print_error(text: str) -> None:
    """Print the message that ends the command to stderr."""
    print_note(f"rethink: {text}")


def progress(shown: bool = True) -> Progress | LogLines:
    """Return a progress bar on stderr, or what prints a line a minute if stderr is no terminal. A task has a `note`."""
    if shown and not console.is_terminal:
        return LogLines(print_note)
    return Progress(
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not shown,
    )


@contextmanager
def resume_hint_on_error(files: Sequence[Path], options: str) -> Iterator[None]:
    """Print how to resume the command if the block ends early but keeps results in one of these files."""
    try:
        yield
    except RecordMismatchError:
        raise
    except (UserError, KeyboardInterrupt):
        found = next((file for file in files if file.exists()), None)
        if found is not None:
            print_resume_hint(found, options)
        raise


def print_resume_hint(path: Path, options: str) -> None:
    """Print where the results are and which options resume the command."""
    print_note(f"stopped; the results so far are in {path}; to resume, repeat the command with {options}")


def new_folder(name: str) -> Path:
    """Create runs/NAME, or the first of runs/NAME-2, runs/NAME-3, ... that does not exist, and return it.

    Commands that start at the same time get different folders. If nothing is written to it, it is removed at exit."""
    path, n = Path("runs") / name, 1
    make_folder(path.parent)
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            n += 1
            path = path.with_name(f"{name}-{n}")
        except OSError as err:
            raise UserError(f"cannot create the folder {path}: {err.strerror}") from err
        else:
            atexit.register(_remove_if_empty, path.absolute())
            return path


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def toml_string(text: str) -> str:
    """Return the text as a TOML string."""
    return json.dumps(text, ensure_ascii=False)
