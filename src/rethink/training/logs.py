"""The logs of a run, metrics.jsonl and samples.jsonl, when it resumes: lines of unfinished batches are dropped, because the
resumed run logs them again; damage is found, because each checkpoint holds the size and the hash of both files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.jsonl import Record, write_lines
from rethink.run_folder import RunFolder


def measure(folder: RunFolder) -> dict[str, tuple[int, str]]:
    """Flush both logs to disk, and return the size in bytes and the hash of each. Raise UserError if that fails: some file
    systems say only then that the disk is full."""
    found: dict[str, tuple[int, str]] = {}
    for file in (folder.metrics, folder.samples):
        if not file.is_file():
            found[file.name] = (0, hashlib.sha256().hexdigest())
            continue
        try:
            with file.open("rb") as data:
                os.fsync(data.fileno())
                digest = hashlib.file_digest(data, "sha256").hexdigest()
                found[file.name] = (data.tell(), digest)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                what, when = f"cannot write {file} to disk, nor a checkpoint", "once there is space"
            else:
                what, when = f"cannot flush and read {file}, so no checkpoint is written", "once that is fixed"
            raise UserError(f"{what}: {err.strerror}; {when}, resume with --resume") from err
    return found


def rewind(folder: RunFolder, n_batches: int, measured: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Drop what was logged after the first `n_batches` batches.

    `measured` is what the checkpoint says about the logs; {} for checkpoints of older versions. Of a damaged log, keep the
    file under another name, continue with the lines that can be read, and warn."""
    for file in (folder.metrics, folder.samples):
        data = file.read_bytes() if file.is_file() else b""
        kept: list[bytes] = []
        fault = _fault(file, data, n_batches, measured.get(file.name))
        lines = data.split(b"\n")  # text may contain U+2028 and other line breaks
        for number, line in enumerate(lines, start=1):
            record = _record(line)
            if record is not None and record["batch"] < n_batches:
                kept.append(line)
            elif record is None and number < len(lines):  # what follows the last line break was cut short by a crash
                fault = fault or f"line {number} cannot be read"
        if fault:
            aside = set_aside(file, "damaged")
            rest = f"; the file as it was is {aside}" if aside else ""
            warn(
                f"{file} is damaged: {fault}. The resumed run continues with the {len(kept)} lines that can be read{rest}"
            )
        if b"\n".join([*kept, b""]) != data:
            write_lines(file, (line.decode() for line in kept))


def has_evaluation(folder: RunFolder, update: int) -> bool:
    """Return whether the held-out evaluation after this update is in the log."""
    for record in _records(folder.metrics):
        if record.get("phase") == "evaluation" and record.get("update") == update:
            return True
    return False


def n_updates_before_last_batch(folder: RunFolder) -> int:
    """Return how many updates had been made when the last batch in the log began."""
    last_batch = before = last = 0
    for record in _records(folder.metrics):
        if record["batch"] > last_batch:
            last_batch, before = record["batch"], last
        last = record.get("update", last)
    return before


def _records(file: Path) -> Iterator[Record]:
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        record = _record(line)
        if record is not None:
            yield record


def set_aside(file: Path, word: str) -> Path | None:
    """Copy a file, unless it is empty, to a new name with this word next to it. Return the copy's path."""
    if not file.is_file() or not file.stat().st_size:
        return None
    n = 1
    while file.with_name(f"{file.name}.{word}-{n}").exists():
        n += 1
    aside = file.with_name(f"{file.name}.{word}-{n}")
    try:
        shutil.copyfile(file, aside)
    except OSError as err:
        raise UserError(f"cannot keep {file} as {aside}: {err.strerror}") from err
    return aside


def _fault(file: Path, data: bytes, n_batches: int, measured: tuple[int, str] | None) -> str:
    """Return how a log differs from what the checkpoint says about it; "" if it does not."""
    if measured is None:  # an older version wrote the checkpoint
        return "it is missing" if n_batches and not file.is_file() else ""
    n_bytes, digest = measured
    if n_bytes and not file.is_file():
        return "it is missing"
    if len(data) < n_bytes:
        return "its end is missing"
    if hashlib.sha256(data[:n_bytes]).hexdigest() == digest:
        return ""
    for number, line in enumerate(data[:n_bytes].split(b"\n")[:-1], start=1):
        if _record(line) is None:
            return f"line {number} cannot be read"
    return "it has changed since the checkpoint was written"


def _record(line: bytes) -> Record | None:
    """Return the record of a line; None if it is not a record of a log."""
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("batch"), int) else None
