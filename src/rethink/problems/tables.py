"""Rows of Parquet and Arrow files, of `datasets`, and of tables in memory, as plain Python values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rethink.errors import UserError
from rethink.problems.splits import pick_split

Values = dict[str, Any]
BATCH = 1024


def parquet_rows(file: Path, stream: IO[bytes]) -> Iterator[Values]:
    """Yield the rows of a Parquet file, batch by batch."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(stream) as table:
            names = table.schema_arrow.names
            _refuse_repeated_columns(file, names)
            for batch in table.iter_batches(batch_size=BATCH):
                yield from _exact(batch).to_pylist()
    except (ArrowException, OSError) as err:
        raise UserError(f"{file} is not a readable parquet file: {err}") from err


def arrow_rows(file: Path, stream: IO[bytes]) -> Iterator[Values]:
    """Yield the rows of an Arrow file, in the stream format (which `datasets` writes) or the file format."""
    import pyarrow as pa

    try:
        try:
            batches: Iterable[Any] = pa.ipc.open_stream(stream)
        except pa.ArrowInvalid:
            stream.seek(0)
            found = pa.ipc.open_file(stream)
            batches = (found.get_batch(i) for i in range(found.num_record_batches))
        for batch in batches:
            _refuse_repeated_columns(file, batch.schema.names)
            yield from _exact(batch).to_pylist()
    except (pa.ArrowException, OSError) as err:
        raise UserError(f"{file} is not a readable arrow file: {err}") from err


def _exact(batch: Any) -> Any:
    """Return a batch whose short floats are the numbers that they are written as: 0.1, not 0.10000000149011612."""
    import pyarrow as pa

    for n, field in enumerate(batch.schema):
        kind = field.type
        if pa.types.is_floating(kind) and kind.bit_width == 32:
            batch = batch.set_column(n, field.name, batch.column(n).cast(pa.string()).cast(pa.float64()))
    return batch


def _refuse_repeated_columns(where: Path | str, names: list[Any]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: the column {name!r} occurs twice")


def dataset_rows(dataset: Any) -> Iterator[Values]:
    """Yield the rows of a `datasets.Dataset` as they are stored: images are not decoded."""
    for batch in dataset.with_format("arrow").iter(batch_size=BATCH):
        yield from _exact(batch).to_pylist()


def rows_of(rows: object, splits: tuple[str, ...]) -> Iterable[Any]:
    """Return the rows of a `datasets.Dataset` or `DatasetDict`, a pandas or Arrow table, or an iterable of mappings."""
    if hasattr(rows, "with_format"):
        if isinstance(rows, dict):  # a DatasetDict
            return rows_of(rows[pick_split("the DatasetDict", list(rows), splits)], splits)
        return dataset_rows(rows) if hasattr(rows, "data") else iter(rows)  # type: ignore[call-overload]
    if hasattr(rows, "to_pylist"):
        if hasattr(rows, "schema"):
            _refuse_repeated_columns("rows", rows.schema.names)
        return _exact(rows).to_pylist()
    if hasattr(rows, "to_dict"):
        _refuse_repeated_columns("rows", list(rows.columns))  # type: ignore[attr-defined]
        short = {name: str for name, kind in rows.dtypes.items() if str(kind) == "float32"}  # type: ignore[attr-defined]
        return rows.astype(short).astype(dict.fromkeys(short, float)).to_dict("records")  # type: ignore[attr-defined]
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise UserError(f"rows must be a datasets.Dataset, a table or a list of mappings, not {type(rows).__name__}")
    return rows


def plain(value: Any) -> Any:
    """Return a value with numpy scalars and arrays, tuples and mappings as Python's own types, and pandas' NA as None."""
    if isinstance(value, str | int | float | bool | None) and type(value).__module__ == "builtins":
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value).__name__ == "NAType":  # pandas has it in columns of integers, text and bools
        return None
    if type(value).__name__ in ("float32", "float16"):
        return float(str(value))
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    return value


def as_json(value: Any) -> Any:
    """Return a value that JSON can hold: dates and decimals as text, and the length of bytes instead of them."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value if isinstance(value, str | int | float | bool | None) else str(value)
