"""Damage to answers.jsonl after its evaluation has ended: summary.json holds the number of lines and a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from rethink.errors import UserError
from rethink.jsonl import Record

ANSWERS_FILE = "answers.jsonl"
SUMMARY_FILE = "summary.json"
ADVICE = "restore the file, or remove summary.json if the change was meant"


def describe_file(file: Path) -> Record:
    """Return the number of lines and the SHA-256 of a file."""
    text = file.read_bytes()
    return {"lines": text.count(b"\n"), "sha256": hashlib.sha256(text).hexdigest()}


def refuse_changed(file: Path) -> None:
    """Raise UserError if the answers of a finished evaluation are not those that it ended with."""
    before = _at_the_end(file)
    if before not in (None, describe_file(file)):
        raise UserError(f"{file} has changed since its evaluation ended; {ADVICE}")


def refuse_changed_on_resume(file: Path, warn: Callable[[str], None]) -> None:
    """Warn if the answers of a finished evaluation have lost lines, which are made again. Refuse any other change."""
    before = _at_the_end(file)
    if before is None or not file.is_file():
        return
    n_lost = before["lines"] - describe_file(file)["lines"]
    if n_lost <= 0:
        refuse_changed(file)
    else:
        warn(f"{file} has lost {n_lost} of {before['lines']} lines since its evaluation ended; they are made again")


def _at_the_end(file: Path) -> Record | None:
    """Return what summary.json says about the file; None if it says nothing, as that of an older version."""
    summary = file.with_name(SUMMARY_FILE)
    if file.name != ANSWERS_FILE or not summary.is_file():
        return None
    try:
        found = json.loads(summary.read_bytes())["answers"]
        return {"lines": int(found["lines"]), "sha256": str(found["sha256"])}
    except (ValueError, KeyError, TypeError):
        return None
