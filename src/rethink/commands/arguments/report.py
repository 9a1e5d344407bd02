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
) -> None:
    """Write a page with the curves, evaluations and transcripts of runs: one HTML file that needs no network."""
    from rethink.commands.console import print_note
    from rethink.report.folders import find_sources
    from rethink.report.page import REPORT_FILE, write_page

    print_note(f"report: {write_page(find_sources(folders), out or folders[0] / REPORT_FILE)}")


COMMAND = Declared(
    report,
    EVALUATE,
    examples=("rethink report runs/mine --out mine.html", "rethink report runs/grpo runs/think-twice --out both.html"),
)
