"""How long the process waits for a core because others use them: then products of several threads become very slow."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from rethink.jsonl import Record

STAGES = ("sample_s", "grade_s", "update_s")
MIN_SECONDS = 5.0
"""Shorter updates are not judged: a single program that starts would count too much."""

LIMIT = 0.2
"""The share of the threads' time above which a run says so."""


def core_wait_s(tasks: Path = Path("/proc/self/task")) -> float:
    """Return the seconds that the threads of this process were ready to run, but had no core, since they started.

    It is 0 where the system does not count them (they are the second number of Linux's `schedstat`, in nanoseconds)."""
    waited_ns = 0
    with suppress(OSError):
        for task in tasks.iterdir():
            with suppress(OSError, IndexError, ValueError):  # a thread that has just ended
                waited_ns += int((task / "schedstat").read_text().split()[1])
    return waited_ns / 1e9


def busy_machine(record: Record) -> list[str]:
    """Return a warning if, in this update, the threads waited too long for a core."""
    n_threads = torch.get_num_threads()
    seconds = sum(record.get(stage, 0.0) for stage in STAGES)
    waited = record.get("core_wait_s", 0.0)
    if n_threads < 2 or seconds < MIN_SECONDS or waited <= LIMIT * n_threads * seconds:
        return []
    return [
        f"the machine is busy: in {seconds:.0f} s, the {n_threads} threads of this run waited {waited:.0f} s for a core "
        "that other programs used. Products that threads share wait for the slowest; end the other programs, or start "
        "again with OMP_NUM_THREADS=1"
    ]
