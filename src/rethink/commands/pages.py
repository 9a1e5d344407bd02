"""`rethink report` and `rethink view`: the page of runs and evaluations, as a file or from a server on this machine."""

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


def view(
    folders: Folders,
    port: Annotated[int, typer.Option(help="Port; 0 is any free one.", min=0, max=65535)] = 8420,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Everyone who reaches another one than 127.0.0.1 can read the runs."),
    ] = "127.0.0.1",
) -> None:
    """Show the page of runs and evaluations in a browser, and follow those that are under way. Ctrl-C ends it."""
    from rethink.commands.console import print_note, warn
    from rethink.report.serve import LOOPBACK, PageServer, Viewer

    with PageServer(Viewer(folders), host, port) as server:
        if host not in LOOPBACK:
            warn(f"everyone who reaches {host} can read these runs")
        print_note(f"{len(server.viewer.sources)} runs and evaluations at {server.url} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print_note("stopped")
