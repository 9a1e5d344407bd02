"""Files of JSON lines: written whole or not at all, appended to, and read up to a line that a crash cut short."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rethink.errors import UserError

Record = dict[str, Any]


def make_folder(path: Path) -> None:
    """A folder with its parents. Raises UserError when it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"cannot make the folder {path}: {err.strerror}") from err


def replace(file: Path, text: str) -> None:
    """Write a file whole or not at all. Raises UserError when it cannot be written."""
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err


def replace_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a file line by line, whole or not at all. Raises UserError when it cannot be written."""
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            out.writelines(line + "\n" for line in lines)
        temporary.replace(file)
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err
    finally:
        temporary.unlink(missing_ok=True)


def append(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records as JSON lines; what is undefined is null. Raises UserError when it cannot be written."""
    try:
        with file.open("a", encoding="utf-8") as out:
            out.writelines(to_json(r) + "\n" for r in records)
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err


def read_lines(file: Path) -> Iterator[tuple[str, Record]]:
    """Each whole line with its record; a last line that a crash cut short is left out."""
    if not file.is_file():
        return
    for line in file.read_bytes().split(b"\n"):  # bytes: the cut may be inside a letter, and a letter be a line break
        try:
            record = json.loads(line)
        except ValueError:
            return
        yield line.decode(), record


def to_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """The record as JSON; what is undefined (NaN) is null."""
    return json.dumps(_plain(record), ensure_ascii=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
