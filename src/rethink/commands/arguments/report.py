"""`rethink report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import EVALUATE, Declared
from rethink.commands.arguments.options import Folders


def report(
    folders: Folders,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for the page; default: report.html in the (first) folder.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the numbers as a CSV table instead.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a figure as SVG instead.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a figure as PNG instead.")] = None,
) -> None:
    """Write a page with the curves, evaluations and transcripts of runs: one HTML file that needs no network.

    With --csv, --svg or --png, write a table or a figure of the same numbers instead, and the page only with --out."""
    from rethink.commands.report import report as run

    run(folders, out, csv, svg, png)


COMMAND = Declared(
    report,
    EVALUATE,
    examples=(
        "rethink report runs/mine --out mine.html",
        "rethink report runs/grpo runs/think-twice --out both.html",
        "rethink report runs/mine --csv curves.csv --svg curves.svg",
    ),
)
