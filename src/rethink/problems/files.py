"""Read rows from files and folders: JSONL, JSON, CSV, TSV, Parquet and Arrow, also compressed."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from rethink.errors import UserError
from rethink.problems.folders import data_files, is_saved_dataset, saved_rows
from rethink.problems.rows import Row
from rethink.problems.splits import pick_split
from rethink.problems.tables import arrow_rows, parquet_rows, plain, rows_of

FILE_KINDS = ".jsonl, .json, .csv, .tsv, .parquet and .arrow files"
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
CONTAINERS = ("data", "rows", "examples", "problems", "questions")
SPLITS = ("train", "training", "test", "validation", "valid", "val", "dev")
"""Keys of a JSON file that is one object: under the first, a list of rows; under the second, one split."""

Place = tuple[str, dict[str, Any], str]
"""Where a row is ("line 3"), its values, and why it could not be read ("" if it could)."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_FOREIGN = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself; fetch the file with `git lfs pull`",
    b"<!doctype html": "a web page; download the raw file instead",
    b"<html": "a web page; download the raw file instead",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save the sheet as .csv",
    b"\xff\xfe": "in UTF-16; save it as UTF-8",
    b"\xfe\xff": "in UTF-16; save it as UTF-8",
}


def is_data_name(name: str) -> bool:
    """Return whether a name is that of a file or folder: it exists, or it ends as data files do."""
    return suffix_of(Path(name)) in _READERS or (name != "" and Path(name).exists())


def suffix_of(file: Path) -> str:
    """Return what a file holds, by its name: ".jsonl" for "A.JSONL.gz"."""
    name = file.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def read_rows(path: Path, strict: bool = True, splits: tuple[str, ...] = ()) -> Iterator[Row]:
    """Yield the rows of a file, or of a folder of files of one kind.

    `splits` are the names of the wanted split, the first that is there; () is an error where there are several. Raise
    UserError for other kinds of files and unreadable ones. A row that cannot be read is an error if `strict`, else a row
    with `broken` set.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as err:  # a name that is too long
        raise UserError(f"cannot read {path}: {err.strerror}") from err
    if not exists:
        raise UserError(f"there is no file {path}")
    if is_folder and is_saved_dataset(path):
        return _numbered(((path, place) for place in saved_rows(path, splits)), strict)
    files = data_files(path, splits, suffix_of, tuple(_READERS)) if is_folder else [path]
    for file in files:
        if suffix_of(file) not in _READERS:
            raise UserError(f"{file}: rows are read from {FILE_KINDS}")
    return _numbered(((file, place) for file in files for place in _places(file, splits)), strict)


def _numbered(places: Iterable[tuple[Path, Place]], strict: bool) -> Iterator[Row]:
    for n, (file, (where, values, fault)) in enumerate(places):
        location = f"{file}, {where}"
        broken = f"{location}: {fault}" if fault else ""
        if broken and strict:
            raise UserError(broken)
        yield Row(location, values, n, broken, file.parent if suffix_of(file) in _READERS else file)


def _places(file: Path, splits: tuple[str, ...]) -> Iterator[Place]:
    try:
        stream = _open(file)
        with stream:
            yield from _READERS[suffix_of(file)](file, stream, splits)
    except UserError:
        raise
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as err:
        raise UserError(f"{file} is damaged or incomplete: {err}") from err


def _open(file: Path) -> IO[bytes]:
    """Return the bytes of a file, unpacked if it is compressed. Raise UserError for a file that holds something else."""
    with file.open("rb") as raw:
        start = raw.read(64)
    if start.startswith(b"PAR1") and suffix_of(file) != ".parquet":
        raise UserError(f"{file} is a parquet file; give it the ending .parquet")
    for magic, what in _FOREIGN.items():
        if start.lower().startswith(magic.lower()):
            raise UserError(f"{file} is {what}")
    method = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")
    if method == "zstd":
        import pyarrow as pa

        return cast(IO[bytes], BufferedReader(pa.input_stream(str(file), compression="zstd")))
    openers: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return cast(IO[bytes], openers[method](file, "rb") if method else file.open("rb"))


def _jsonl(file: Path, lines: IO[bytes], splits: tuple[str, ...]) -> Iterator[Place]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            values, fault = _json_object(line)
            yield f"line {number}", values, fault


def _json_object(line: bytes) -> tuple[dict[str, Any], str]:
    try:
        values = _parse(_decode(line))
    except (ValueError, RecursionError) as err:  # bad JSON, or bytes that are not UTF-8
        return {}, f"not valid JSON ({err})"
    return (values, "") if isinstance(values, dict) else ({}, "not a JSON object")


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ValueError(
            f"not UTF-8: {err.reason} at byte {err.start}; if the file is from Windows, convert it with "
            "`iconv -f WINDOWS-1252 -t UTF-8`"
        ) from err


def _parse(text: str) -> Any:
    values = json.loads(text, object_pairs_hook=_without_repeats)
    if "\\ud" in text.lower():  # lone surrogates: no tokenizer takes them, and no file can hold them
        json.dumps(values, ensure_ascii=False).encode()
    return values


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return values


def _json(file: Path, stream: IO[bytes], splits: tuple[str, ...]) -> Iterator[Place]:
    """Yield the rows of a JSON array, of an object with an array in it, or of JSON lines in a file called .json."""
    data = stream.read()
    try:
        content = _parse(_decode(data))
    except (ValueError, RecursionError) as err:
        if not isinstance(err, json.JSONDecodeError) or not err.msg.startswith("Extra data"):
            raise UserError(f"{file}: not valid JSON ({err})") from err
        yield from _jsonl(file, cast(IO[bytes], data.splitlines()), splits)
        return
    for n, row in enumerate(_rows_in(file, content, splits)):
        is_row = isinstance(row, dict)
        yield f"row {n}", row if is_row else {}, "" if is_row else "not a JSON object"


def _rows_in(file: Path, content: Any, splits: tuple[str, ...]) -> list[Any]:
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise UserError(f"{file}: neither a list of rows nor an object")
    lists = [key for key, value in content.items() if isinstance(value, list)]
    if len(lists) == 1 and lists[0] in CONTAINERS:
        return list(content[lists[0]])
    if lists and len(lists) == len(content) and all(key.lower() in SPLITS for key in lists):
        return list(content[pick_split(file, lists, splits)])
    if len(content) > 1 and all(map(_is_nested, content.values())):
        raise UserError(
            f"{file} holds a table by columns ({', '.join(list(content)[:8])}), not a list of rows; "
            'with pandas, write it with to_json(FILE, orient="records")'
        )
    return [content]


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _table(file: Path, lines: IO[bytes], splits: tuple[str, ...]) -> Iterator[Place]:
    """Yield the rows of a CSV or TSV file; its first line names the columns. All values are text."""
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, is less than some solutions have
    decoded = (_decode(line) for line in lines)
    first = next(decoded, "")
    given = re.fullmatch(r"\"?sep=(.)\"?\s*", first)  # Excel's first line
    n_skipped = 1 if given else 0
    if given:
        first = next(decoded, "")
    named = "\t" if suffix_of(file) == ".tsv" else given[1] if given else ""
    delimiter = named or next((d for d in ",;\t" if d in first), ",")
    reader = csv.reader(_chain(first, decoded), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    number = 1 + n_skipped
    while True:
        start = number
        try:
            cells = next(reader, None)
        except (csv.Error, ValueError) as err:
            raise UserError(f"{file}, line {start}: not a table that can be read ({err})") from err
        number = reader.line_num + 1 + n_skipped
        if cells is None:
            return
        if not header:
            header = _header(file, cells)
        elif not any(map(str.strip, cells)):
            continue  # spreadsheets write such rows after the last one
        elif len(cells) == len(header):
            yield f"line {start}", dict(zip(header, cells, strict=True)), ""
        elif cells:
            yield f"line {start}", {}, f"{len(cells)} cells, but the header has {len(header)}"


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _header(file: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{file}: the column {name!r} occurs twice in the header")
    return names


def _parquet(file: Path, stream: IO[bytes], splits: tuple[str, ...]) -> Iterator[Place]:
    for n, values in enumerate(parquet_rows(file, stream)):
        yield f"row {n}", values, ""


def _arrow(file: Path, stream: IO[bytes], splits: tuple[str, ...]) -> Iterator[Place]:
    for n, values in enumerate(arrow_rows(file, stream)):
        yield f"row {n}", values, ""


Reader = Callable[[Path, IO[bytes], tuple[str, ...]], Iterator[Place]]
_READERS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".arrow": _arrow,
}


def object_rows(rows: object, splits: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of a `datasets.Dataset`, a pandas table, or a list of mappings."""
    for n, values in enumerate(rows_of(rows, splits)):
        if not isinstance(values, dict):
            raise UserError(f"rows, row {n}: not a mapping of columns to values, but {type(values).__name__}")
        yield Row(f"rows, row {n}", cast(dict[str, Any], plain(values)), n)
