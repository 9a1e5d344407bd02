"""`rethink report` and `rethink view`: the page of runs and evaluations, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="Folders of runs and evaluations, or folders that hold such.")
]


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
