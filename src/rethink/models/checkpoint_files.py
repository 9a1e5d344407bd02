"""The files of checkpoints: which are there, and whether they are as they were written.

A checkpoint lists the hashes of its files in a manifest. They are checked before it is used, to resume a run or only as a
model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.pt"
"""The file with the optimizer's state, in a checkpoint written by one process."""

COUNTERS = "counters.json"
LARGE = 2**26
"""Bytes."""

RUN_ONLY = (OPTIMIZER, COUNTERS)
"""Files that a run resumes from, but that are not part of the model."""


def is_checkpoint(folder: Path) -> bool:
    """Return whether a training run wrote this folder as a checkpoint: it has counters, or a manifest that lists them."""
    return (folder / COUNTERS).is_file() or COUNTERS in (_read_manifest(folder / MANIFEST) or {})


def find_damage(checkpoint: Path, *, model_only: bool = False) -> str | None:
    """Return what is damaged in a checkpoint, or None. With `model_only`, skip the optimizer's state and the counters."""
    hashes = _read_manifest(checkpoint / MANIFEST)
    if hashes is None:
        return f"no readable {MANIFEST}"
    for name, wanted in hashes.items():
        if model_only and name in RUN_ONLY:
            continue
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if hash_file(file) != wanted:
            return f"{name} has changed since it was written"
    return None


def newest(folder: Path, warn: Callable[[str], None], *, model_only: bool = False) -> Path | None:
    """Return the newest valid checkpoint, or None. Skip damaged ones with a warning."""
    for candidate in newest_first(folder):
        fault = find_damage(candidate, model_only=model_only)
        if fault is None:
            return candidate
        warn(f"checkpoint {candidate} is damaged ({fault}); looking for an older one")
    return None


def newest_first(folder: Path) -> list[Path]:
    """Return all checkpoints in a folder of checkpoints."""
    found = [p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def hash_file(file: Path) -> str:
    """Return the hash of a file. Large ones are read once, as long as size and time of the last change stay the same."""
    found = file.stat()
    if found.st_size < LARGE:
        return _hash(file)
    return _hash_large(file.resolve(), found.st_size, found.st_mtime_ns)


@cache
def _hash_large(file: Path, size: int, changed_ns: int) -> str:
    return _hash(file)


def _hash(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _read_manifest(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found else None
