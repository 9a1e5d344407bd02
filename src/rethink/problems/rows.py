"""Rows of a JSONL or parquet file, or of a data set on the hub, and the names of their columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError


@dataclass(frozen=True)
class Columns:
    """The columns that an answer format reads.

    Dots reach into nested values (`prompt.0.content`). `a|b` is the first of these columns that is not empty in a row.
    If a row has a `context`, it is put before the question.
    """

    question: str = "question"
    answer: str = "answer"
    tools: str = "tools"
    options: str = "options"
    context: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a file or data set: its location for messages ("file.jsonl, row 3"), its values, and its number from 0.

    A row that could not be read has no values; `broken` says why.
    """

    location: str
    values: dict[str, Any]
    n: int = 0
    broken: str = ""

    def value(self, names: str) -> Any:
        """Return the value of a column. Raise UserError if there is no such column."""
        found = [value for name in names.split("|") if (value := self._look_up(name)) is not _MISSING]
        if not found:
            raise UserError(f"{self.location}: no column {names!r}; there are {', '.join(self.values)}")
        return next((value for value in found if not _is_empty(value)), found[0])

    def text(self, names: str) -> str:
        """Return the value of a column as text, or as JSON if it is not text. Raise UserError if it is missing or empty."""
        value = self.value(names)
        if _is_empty(value):
            raise UserError(f"{self.location}: the column {names!r} is empty")
        if isinstance(value, bytes):
            raise UserError(f"{self.location}: the column {names!r} holds bytes, not text")
        if isinstance(value, str):
            return value
        is_json = isinstance(value, dict | list | bool | int | float)  # others: dates and decimals of a parquet file
        return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)

    def has(self, names: str) -> bool:
        """Return whether the row has the column and it is not empty."""
        return any(not _is_empty(self._look_up(name)) for name in names.split("|"))

    def _look_up(self, name: str) -> Any:
        value: Any = self.values
        if name in self.values:  # "Incorrect Answer 1", and names that contain dots
            return value[name]
        for key in name.split("."):
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return _MISSING
        return value


_MISSING = object()


def _is_empty(value: Any) -> bool:
    """Return whether a value is missing, null, blank text, or the NaN that tables write for an empty cell."""
    return value is _MISSING or value is None or (isinstance(value, str) and not value.strip()) or value != value


def read_rows(file: Path, strict: bool = True) -> Iterator[Row]:
    """Yield the rows of a .jsonl or .parquet file.

    Raise UserError for other kinds of files and unreadable ones. A line that is not a JSON object is an error if
    `strict`, else a row with `broken` set.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix in (".jsonl", ".ndjson"):
        return _jsonl_rows(file, strict)
    raise UserError(f"{file}: rows are read from .jsonl and .parquet files")


def hub_rows(name: str, subsets: Sequence[str], split: str) -> Iterator[Row]:
    """Yield the rows of a data set on the hub. Raise UserError if it cannot be loaded."""
    first = 0
    for subset in subsets or (None,):
        for n, row in enumerate(_load_from_hub(name, subset, split), start=first):
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


def _load_from_hub(name: str, subset: str | None, split: str, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, subset, split=split, **options)
    except Exception as err:  # the hub's client raises many types
        raise UserError(f"cannot load hub:{name} (split {split}): {err}") from err


def _jsonl_rows(file: Path, strict: bool) -> Iterator[Row]:
    n = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _jsonl_row(line, f"{file}, line {number}", n)
            if row.broken and strict:
                raise UserError(row.broken)
            yield row
            n += 1


def _jsonl_row(line: bytes, location: str, n: int) -> Row:
    try:
        text = line.decode("utf-8-sig")
        values = json.loads(text)
        if "\\ud" in text.lower():  # lone surrogates: no tokenizer takes them, and no file can hold them
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as err:  # bad JSON, or bytes that are not UTF-8
        return Row(location, {}, n, f"{location}: not valid JSON ({err})")
    if not isinstance(values, dict):
        return Row(location, {}, n, f"{location}: not a JSON object")
    return Row(location, values, n)


def _parquet_rows(file: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    n = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    yield Row(f"{file}, row {n}", values, n)
                    n += 1
    except (ArrowException, OSError) as err:
        raise UserError(f"{file} is not a readable parquet file: {err}") from err
