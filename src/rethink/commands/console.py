"""What goes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rethink.errors import UserError
from rethink.jsonl import RecordMismatchError

console = Console(stderr=True, highlight=False, emoji=False)
output = Console(highlight=False, soft_wrap=True, emoji=False)


def print_result(text: str) -> None:
    """A result, as it is."""
    output.print(text, markup=False)


def print_part(text: str) -> None:
    """A piece of a result, at once and without a line's end."""
    output.print(text, markup=False, end="")


def print_note(text: str) -> None:
    """On stderr, and not wrapped: commands and paths are there to be copied."""
    console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    print_note(f"warning: {text}")


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as aligned columns, the first to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rows: list[str] = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        for cell, width in zip(others, widths[1:], strict=True):
            cells.append(cell.rjust(width))
        rows.append("  ".join(cells))
    return "\n".join(rows)


def progress(shown: bool = True) -> Progress:
    """A bar with a note behind it."""
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not shown,
    )


@contextmanager
def resume_hint_on_error(place: Path, options: str) -> Iterator[None]:
    """Say how the command goes on, where what is done inside ends early but is kept."""
    try:
        yield
    except RecordMismatchError:
        raise
    except (UserError, KeyboardInterrupt):
        print_resume_hint(place, options)
        raise


def print_resume_hint(place: Path, options: str) -> None:
    print_note(f"stopped; what is done is in {place}, and the same command with {options} goes on")


def new_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, -3, ... that is free."""
    path, n = Path("runs") / name, 1
    while path.exists():
        n += 1
        path = Path("runs") / f"{name}-{n}"
    return path


def toml_string(text: str) -> str:
    """As a TOML string."""
    return json.dumps(text, ensure_ascii=False)
