"""Rows of a JSONL or parquet file, or of a data set on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.problems.answer_format import Row


def read_rows(file: Path, strict: bool = True) -> Iterator[Row]:
    """Each row of a .jsonl or .parquet file. Raises UserError for another kind of file, and for an unreadable one; for a
    line that is no JSON object only if `strict`, else it is a row that says so."""
    if not file.is_file():
        raise UserError(f"no file {file}")
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix in (".jsonl", ".ndjson"):
        return _jsonl_rows(file, strict)
    raise UserError(f"{file}: rows are read from .jsonl and .parquet files")


def hub_rows(name: str, subsets: Sequence[str], split: str) -> Iterator[Row]:
    """Each row of a data set on the hub. Raises UserError when it cannot be had."""
    first = 0
    for subset in subsets or (None,):
        for n, row in enumerate(_hub(name, subset, split), start=first):
            yield Row(f"{name}{f'/{subset}' if subset else ''}, row {n}", dict(row), n)
            first = n + 1


def joined_rows(name: str, questions: str, answers: str) -> Iterator[Row]:
    """The rows of two JSONL files of a data set on the hub, joined by their column `id`."""
    found = [_hub(name, None, "train", data_files=file) for file in (questions, answers)]
    by_id = {row["id"]: row for row in found[1]}
    for n, row in enumerate(found[0]):
        if row["id"] not in by_id:
            raise UserError(f"{name}: {answers} has no row with the id {row['id']!r}")
        yield Row(f"{name}, row {n}", {**by_id[row["id"]], **row}, n)


def _hub(name: str, subset: str | None, split: str, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, subset, split=split, **options)
    except Exception as err:  # the hub's client raises many kinds; all mean that the data cannot be had
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


def _jsonl_row(line: bytes, where: str, n: int) -> Row:
    try:
        text = line.decode("utf-8-sig")
        values = json.loads(text)
        if "\\ud" in text.lower():  # halves of surrogate pairs, which no tokenizer and no file takes
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as err:  # bad JSON, or bytes that are not UTF-8
        return Row(where, {}, n, f"{where}: not valid JSON ({err})")
    if not isinstance(values, dict):
        return Row(where, {}, n, f"{where}: not a JSON object")
    return Row(where, values, n)


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
