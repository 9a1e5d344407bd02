"""The CSV files and markdown tables of the benchmarks with real models, and the name of the processor that they ran on."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
"""The processor's features that decide how fast products are."""

Row = dict[str, str]


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a CSV file; none if there is no file. A line that a crash has cut short is left out."""
    if not file.is_file():
        return []
    whole, end, _ = file.read_text(encoding="utf-8").rpartition("\n")
    return list(csv.DictReader(io.StringIO(whole + end)))


def append_row(file: Path, row: Mapping[str, object]) -> None:
    """Add a row to a CSV file, which is on the disk when this returns. Raise SystemExit if the file has other columns."""
    known = read_rows(file)
    if known and list(known[0]) != list(row):
        raise SystemExit(f"{file} has other columns than this version writes; move it away")
    if known and file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as out:
            out.write(to_csv([row], header=False))
            out.flush()
            os.fsync(out.fileno())
    else:
        write_rows(file, [*known, row])


def write_rows(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".writing-{file.name}")
    temporary.write_text(to_csv(rows), encoding="utf-8")
    temporary.replace(file)


def replace_rows(file: Path, rows: Sequence[Mapping[str, object]], key: Sequence[str]) -> None:
    """Write rows in place of those with the same values in the columns of the key; the others stay, in front of them.

    Raise SystemExit if the file has other columns."""
    known = read_rows(file)
    if known and list(known[0]) != list(rows[0]):
        raise SystemExit(f"{file} has other columns than this version writes; move it away")
    new = [[str(row[name]) for name in key] for row in rows]
    kept = [row for row in known if [row[name] for name in key] not in new]
    write_rows(file, [*kept, *rows])


def to_csv(rows: Sequence[Mapping[str, object]], *, header: bool = True) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as a table, whose first line is the header."""
    header, *others = lines
    rows = [header, ["---"] * len(header), *others]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def processor(text: str | None = None) -> str:
    """Return the name of the processor with its features that matter here, from the text of /proc/cpuinfo."""
    if text is None:
        file = Path("/proc/cpuinfo")
        text = file.read_text() if file.is_file() else ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    has = set(fields.get("flags", fields.get("features", "")).split())
    shown = " ".join(flag.upper() for flag in FLAGS if flag in has)
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({shown or 'none of the flags looked for'})"
