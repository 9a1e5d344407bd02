"""Rows of a file or of a data set on the hub, and the names of their columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.problems.tables import rows_of


class MissingColumnError(UserError):
    """A row lacks a column. `names` are those that were asked for."""

    def __init__(self, message: str, names: str) -> None:
        super().__init__(message)
        self.names = names


@dataclass(frozen=True)
class Columns:
    """The columns that an answer format reads.

    Dots reach into nested values (`prompt.0.content`). `a|b` is the first of these columns that is not empty in a row.
    If a row has a `context`, it is put before the question. `images` are columns of images (`images.row_images`).
    `in_order`: options keep the letters that they have in the file, because it has replies, which name them.
    """

    question: str = "question"
    answer: str = "answer"
    tools: str = "tools"
    options: str = "options"
    context: str = ""
    images: str = ""
    in_order: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a file or data set: its location for messages ("file.jsonl, row 3"), its values, and its number from 0.

    A row that could not be read has no values; `broken` says why. Paths in it are relative to `folder`. `problem` is the id
    of the problem that its replies belong to, if others have replies to it, too: other tools log a row per reply.
    """

    location: str
    values: dict[str, Any]
    n: int = 0
    broken: str = ""
    folder: Path | None = None
    problem: str = ""

    def value(self, names: str) -> Any:
        """Return the value of a column. Raise UserError if there is no such column."""
        found = [value for name in names.split("|") if (value := self._look_up(name)) is not _MISSING]
        if not found:
            raise MissingColumnError(
                f"{self.location}: no column {names!r}; there are {', '.join(map(str, self.values))}", names
            )
        return next((value for value in found if not is_empty(value)), found[0])

    def text(self, names: str) -> str:
        """Return the value of a column as text, or as JSON if it is not text. Raise UserError if it is missing or empty."""
        value = self.value(names)
        if is_empty(value):
            raise UserError(f"{self.location}: the column {names!r} is empty")
        return cell_text(value, f"{self.location}: the column {names!r}")

    def has(self, names: str) -> bool:
        """Return whether the row has the column and it is not empty."""
        return any(not is_empty(self._look_up(name)) for name in names.split("|"))

    def _look_up(self, name: str) -> Any:
        value: Any = self.values
        if name in self.values:  # "Incorrect Answer 1", and names that contain dots
            return value[name]
        for key in name.split("."):
            value = _parsed(value)
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return _MISSING
        return value


_MISSING = object()


def _parsed(value: Any) -> Any:
    """Return a nested value that a table holds as JSON text, and other values as they are."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def cell_text(value: Any, where: str) -> str:
    """Return a value that is not empty as text, or as JSON if it is not text. Raise UserError for bytes."""
    if isinstance(value, bytes):
        raise UserError(f"{where} holds bytes, not text")
    if isinstance(value, str):
        return value
    is_json = isinstance(value, dict | list | bool | int | float)  # others: dates and decimals of a parquet file
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


def is_empty(value: Any) -> bool:
    """Return whether a value is missing, null, blank text, or the NaN that tables write for an empty cell."""
    return value is _MISSING or value is None or (isinstance(value, str) and not value.strip()) or value != value


def hub_rows(name: str, subsets: Sequence[str], split: str, hint: str = "") -> Iterator[Row]:
    """Yield the rows of a data set on the hub. Raise UserError, which ends with the hint, if it cannot be loaded."""
    first = 0
    for subset in subsets or (None,):
        for n, row in enumerate(rows_of(_load_from_hub(name, subset, split, hint), ()), start=first):
            yield Row(f"{name}{f'/{subset}' if subset else ''}, row {n}", dict(row), n)
            first = n + 1


def joined_rows(name: str, questions: str, answers: str) -> Iterator[Row]:
    """Yield the rows of two JSONL files of a data set on the hub, joined by their column `id`."""
    loaded = [_load_from_hub(name, None, "train", data_files=file) for file in (questions, answers)]
    by_id = {row["id"]: row for row in loaded[1]}
    for n, row in enumerate(loaded[0]):
        if row["id"] not in by_id:
            raise UserError(f"{name}: {answers} has no row with the id {row['id']!r}")
        yield Row(f"{name}, row {n}", {**by_id[row["id"]], **row}, n)


def _load_from_hub(name: str, subset: str | None, split: str, hint: str = "", **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, subset, split=split, **options)
    except Exception as err:  # the hub's client raises many types
        where = f"{subset}, split {split}" if subset else f"split {split}"
        raise UserError(f"cannot load hub:{name} ({where}): {str(err).rstrip('. ')}{hint}") from err
