"""The largest memory that a running process and its children have held, from Linux's /proc."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def peak_bytes(pid: int) -> int | None:
    """Return the peak resident memory of a process and of the processes below it, summed; None where /proc lacks it.

    Each process has its peak at its own time, and pages that several share count for each: the sum is an upper bound.
    (`getrusage` would be wrong: a new process begins with the peak of the one that started it.)"""
    own = _kilobytes(pid)
    if own is None:
        return None
    return 1024 * own + sum(peak_bytes(child) or 0 for child in children(pid))


def children(pid: int) -> list[int]:
    """Return the ids of the processes whose parent this one is."""
    parents = {int(file.parent.name): _field(file, "PPid") for file in PROC.glob("[0-9]*/status")}
    return [child for child, parent in parents.items() if parent == pid]


def _kilobytes(pid: int) -> int | None:
    return _field(PROC / str(pid) / "status", "VmHWM")


def _field(status: Path, name: str) -> int | None:
    """Return a number from a status file; None if the process has ended or its file lacks it."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+)", status.read_text(), re.MULTILINE)
        return int(found[1]) if found else None
    return None
