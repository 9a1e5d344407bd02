"""Files of JSON lines: written whole or not at all, appended to, and resumed after a crash that cut a line short."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    replace_lines(file, [text], end="")


def replace_lines(file: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Write a file line by line, whole or not at all. Raises UserError when it cannot be written."""
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            out.writelines(line + end for line in lines)
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


class OtherRecordsError(UserError):
    """A file to resume from has other records than are asked for now; it is left as it is."""


class Resumable:
    """A file of records in a planned order, written batch by batch; a command that was killed goes on with it.

    `header` holds fields that are written into every record, such as a hash of the settings, and `key(record)` the fields
    that say what else a record is about. For each batch, call `take` with the keys of its records: it returns them if
    the file has them all, else None, and then `append` them once they are made. Call `close` at the end::

        for batch in batches:
            records = file.take([key_of(item) for item in batch])
            if records is None:
                file.append(make(batch))
        file.close()

    With `file` None nothing is kept. Raises OtherRecordsError for a file of another kind.
    """

    def __init__(self, file: Path | None, header: Record, key: Callable[[Record], Record]) -> None:
        self.file = file
        self.header = header
        self.key = key
        self._lines: list[tuple[str, Record]] = []
        self._n_taken = 0
        self._torn = False
        if file is None or not file.exists():
            return
        if not file.is_file():
            raise self._other_kind()
        self._lines = list(read_lines(file))
        n_bytes = sum(len(line.encode()) + 1 for line, _ in self._lines)
        text = file.read_bytes()
        rest = text[n_bytes:]
        self._torn = len(text) != n_bytes  # a last line may lack its end alone
        begins_like_a_record = rest.startswith(b'{"') or rest in (b"", b"{")
        if b"\n" in rest or not begins_like_a_record:
            raise self._other_kind()

    def take(self, wanted: Sequence[Record]) -> list[Record] | None:
        """Return the next records, whose keys these are, if the file has them all.

        Where it has fewer, they are cut off the file. Raises OtherRecordsError where a record is about something else."""
        there = self._lines[self._n_taken : self._n_taken + len(wanted)]
        for (_, record), key in zip(there, wanted, strict=False):
            self._check(record, {**self.header, **key})
        if len(there) < len(wanted):
            self._cut()
            return None
        self._n_taken += len(wanted)
        return [record for _, record in there]

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records to the file, each with the header's fields in it."""
        if self.file is not None:
            append(self.file, [{**record, **self.header} for record in records])

    def close(self) -> None:
        """Raise OtherRecordsError where the file has more records than were asked for."""
        if self._n_taken < len(self._lines):
            raise OtherRecordsError(f"{self.file} has more records than are asked for now")
        self._cut()

    def _check(self, record: Record, wanted: Record) -> None:
        try:
            found = {**{name: record[name] for name in self.header}, **self.key(record)}
        except (KeyError, TypeError, IndexError) as err:
            raise self._other_kind() from err
        for name, value in wanted.items():
            if found[name] != value:
                was, now = repr(found[name])[:80], repr(value)[:80]
                raise OtherRecordsError(
                    f"{self.file} was begun with other records: {name} was {was}, now {now}; resume with the same, or "
                    "choose another file"
                )

    def _cut(self) -> None:
        """Drop what follows the records that were taken."""
        if self.file is not None and (self._torn or self._n_taken < len(self._lines)):
            self._lines = self._lines[: self._n_taken]
            self._torn = False
            replace_lines(self.file, (line for line, _ in self._lines))

    def _other_kind(self) -> OtherRecordsError:
        return OtherRecordsError(
            f"{self.file} is no file that this command can resume; move it away, or choose another one"
        )


def to_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """The record as JSON; what is undefined (NaN) is null."""
    return json.dumps(_plain(record), ensure_ascii=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
