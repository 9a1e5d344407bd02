"""`rethink report`: the page of runs and evaluations as a file, or a table and figures of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rethink.commands.console import print_note
from rethink.jsonl import Record, write_bytes, write_text
from rethink.report.document import read_document
from rethink.report.figures import draw
from rethink.report.folders import find_sources
from rethink.report.numbers import number_rows, to_csv
from rethink.report.page import REPORT_FILE, write_page


def report(folders: Sequence[Path], out: Path | None, csv: Path | None, svg: Path | None, png: Path | None) -> None:
    """Write a table and figures, if files for them are named; the page, if one is named for it, or no other."""
    sources = find_sources(folders)
    if csv is not None or svg is not None or png is not None:
        _write_numbers(number_rows(read_document(sources)["runs"]), csv, svg, png)
        if out is None:
            return
    print_note(f"report: {write_page(sources, out or folders[0] / REPORT_FILE)}")


def _write_numbers(rows: Sequence[Record], csv: Path | None, svg: Path | None, png: Path | None) -> None:
    if csv is not None:
        write_text(csv, to_csv(rows))
        print_note(f"table: {csv}")
    if svg is not None:
        write_bytes(svg, [draw(rows, "svg")])
        print_note(f"figure: {svg}")
    if png is not None:
        write_bytes(png, [draw(rows, "png")])
        print_note(f"figure: {png}")
