"""Files of JSON lines: write atomically, append, and resume after a crash in the middle of a line."""

from __future__ import annotations

import glob
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rethink.errors import UserError

Record = dict[str, Any]

SCHEMA = 1
"""The version of the records of runs and evaluations (`schema`). It grows when a field changes its meaning."""


OLD_S = 600.0
"""Seconds after which a temporary file of no running process is not in use."""


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raise UserError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"cannot create the folder {path}: {err.strerror}") from err


def write_text(file: Path, text: str) -> None:
    """Write a file atomically. Raise UserError if that fails."""
    write_lines(file, [text], end="")


def write_lines(file: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Write a file line by line, atomically; create its folder. Raise UserError if that fails."""
    write_bytes(file, ((line + end).encode() for line in lines))


def write_bytes(file: Path, parts: Iterable[bytes]) -> None:
    """Write a file part by part, atomically; create its folder. Raise UserError if that fails."""
    check_writable(file)
    make_folder(file.parent)
    target = file.resolve()  # a symbolic link stays one
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")  # a run and a command may write its page at once
    try:
        _remove_left(target)
        with temporary.open("wb") as out:
            out.writelines(parts)
        temporary.replace(target)
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err
    finally:
        with suppress(OSError):  # on a read-only disk even a missing file cannot be removed
            temporary.unlink(missing_ok=True)


def _remove_left(target: Path) -> None:
    """Remove the temporary files of a file that killed processes left. Those of the last minutes stay: they may belong to
    a process on another machine that shares the folder."""
    for left in target.parent.glob(f"{glob.escape(target.name)}.*.tmp"):
        number = left.name.removeprefix(f"{target.name}.").removesuffix(".tmp")
        with suppress(OSError):  # another process was first
            if number.isdecimal() and time.time() - left.stat().st_mtime > OLD_S and not _is_running(int(number)):
                left.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def check_writable(file: Path) -> None:
    """Raise UserError if the path names something other than a file: nothing else can be replaced."""
    try:
        other = file.exists() and not file.is_file()
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err
    if other:
        kind = "a folder" if file.is_dir() else "not an ordinary file"
        raise UserError(f"cannot write {file}: it is {kind}; name a file")


def append(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records as JSON lines, NaN as null. Raise UserError if that fails."""
    try:
        with file.open("a", encoding="utf-8") as out:
            out.writelines(to_json(r) + "\n" for r in records)
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err


def refuse_newer(file: Path, record: Any) -> None:
    """Raise UserError for a record of a newer schema than this version knows."""
    schema = record.get("schema") if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{file} was written by a newer version of rethink (its records have schema {schema}; this version knows up to "
            f"{SCHEMA}): update rethink"
        )


def read_lines(file: Path) -> Iterator[tuple[str, Record]]:
    """Yield each complete line with its record. Stop at a line that a crash cut short. Raise UserError for a record of a
    newer schema than this version knows.
    """
    if not file.is_file():
        return
    for line in file.read_bytes().split(b"\n"):  # bytes: a cut may split a letter, and text may contain U+2028
        try:
            record = json.loads(line)
        except ValueError:
            return
        refuse_newer(file, record)
        yield line.decode(), record


def refuse_newer_file(file: Path) -> None:
    """Raise UserError if a file has a record of a newer schema than this version knows."""
    for _ in read_lines(file):
        pass


class RecordMismatchError(UserError):
    """The file to resume from does not match the records to write; it was not changed."""


class Resumable:
    """A file of records in a known order, written batch by batch, that a killed command can resume.

    `header` holds fields that are written into every record, such as a hash of the settings. `key(record)` returns the
    fields that identify a record. For each batch, call `read_batch` with the keys of its records: it returns the records if
    the file has all of them. Otherwise it returns None; compute them and `append` them. Call `close` at the end::

        for batch in batches:
            records = file.read_batch([key_of(item) for item in batch])
            if records is None:
                file.append(compute(batch))
        file.close()

    With `file` None nothing is stored. Raise RecordMismatchError for a file with other contents.
    """

    def __init__(self, file: Path | None, header: Record, key: Callable[[Record], Record]) -> None:
        self.file = file
        self.header = header
        self.key = key
        self._lines: list[tuple[str, Record]] = []
        self._n_read = 0
        self._has_partial_line = False
        if file is None or not file.exists():
            return
        if not file.is_file():
            raise self._not_resumable()
        self._lines = list(read_lines(file))
        n_bytes = sum(len(line.encode()) + 1 for line, _ in self._lines)
        text = file.read_bytes()
        rest = text[n_bytes:]
        self._has_partial_line = len(text) != n_bytes  # or only the last line break is missing
        looks_like_a_record = rest.startswith(b'{"') or rest in (b"", b"{")
        if self._lines and b"\n" in rest:
            raise self._not_resumable(f": line {len(self._lines) + 1} is damaged, and the lines after it would be lost")
        if b"\n" in rest or not looks_like_a_record:
            raise self._not_resumable()

    def read_batch(self, keys: Sequence[Record]) -> list[Record] | None:
        """Return the next records if the file has one for each of these keys.

        Otherwise remove the incomplete batch from the file and return None. Raise RecordMismatchError for a record with
        another key.
        """
        lines = self._lines[self._n_read : self._n_read + len(keys)]
        for n, ((_, record), key) in enumerate(zip(lines, keys, strict=False), start=self._n_read + 1):
            self._check(n, record, {**self.header, **key})
        if len(lines) < len(keys):
            self._truncate()
            return None
        self._n_read += len(keys)
        return [record for _, record in lines]

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records to the file, each with the header's fields."""
        if self.file is not None:
            append(self.file, [{**record, **self.header} for record in records])

    def close(self) -> None:
        """Raise RecordMismatchError if the file has more records than were requested."""
        if self._n_read < len(self._lines):
            raise RecordMismatchError(
                f"{self.file} has more records than this command would write; choose another file"
            )
        self._truncate()

    def _check(self, n: int, record: Record, wanted: Record) -> None:
        try:
            stored = {**{name: record[name] for name in self.header}, **self.key(record)}
        except (KeyError, TypeError, IndexError) as err:
            raise self._not_resumable() from err
        for name, value in wanted.items():
            if stored[name] != value:
                was, now = repr(stored[name])[:80], repr(value)[:80]
                raise RecordMismatchError(
                    f"{self.file} was written for something else: {name} was {was}, now {now} (line {n}); resume with "
                    "the same command, or choose another file"
                )

    def _truncate(self) -> None:
        """Remove everything after the records that were read."""
        if self.file is not None and (self._has_partial_line or self._n_read < len(self._lines)):
            self._lines = self._lines[: self._n_read]
            self._has_partial_line = False
            write_lines(self.file, (line for line, _ in self._lines))

    def _not_resumable(self, why: str = "") -> RecordMismatchError:
        return RecordMismatchError(
            f"{self.file} is not a file that this command can resume{why}; move it away, or choose another one"
        )


def to_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """Return the record as JSON, with null for NaN and infinities."""
    return json.dumps(_json_value(record), ensure_ascii=False, indent=indent)


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
