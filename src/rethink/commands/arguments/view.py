"""`rethink view`."""

from __future__ import annotations

from typing import Annotated

import typer

from rethink.commands.arguments.declared import EVALUATE, Declared
from rethink.commands.arguments.options import Folders


def view(
    folders: Folders,
    port: Annotated[int, typer.Option(help="Port; 0 is any free one.", min=0, max=65535)] = 8420,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. With any address other than 127.0.0.1, anyone who can reach it can read the runs."
        ),
    ] = "127.0.0.1",
) -> None:
    """Show the page of runs and evaluations in a browser, and follow those that are under way. Ctrl-C ends it."""
    from rethink.commands.console import print_note, warn
    from rethink.report.serve import LOOPBACK, PageServer, Viewer

    with PageServer(Viewer(folders), host, port) as server:
        if host not in LOOPBACK:
            warn(f"everyone who reaches {host} can read these runs")
        for folder in server.viewer.waiting:
            print_note(f"{folder} holds no run and no evaluation yet; the page waits for the first record")
        print_note(f"{len(server.viewer.sources)} runs and evaluations at {server.url} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print_note("stopped")


COMMAND = Declared(view, EVALUATE, examples=("rethink view runs", "rethink view runs/mine runs/eval --port 0"))
