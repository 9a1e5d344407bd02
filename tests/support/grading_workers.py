"""Workers for grading: with long limits for busy machines, or running a program of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rethink.grading.pool import Pool, Worker
from rethink.problems import gym, mathematics

MakeWorker = Callable[..., Worker]


def long_timeout_pool() -> Iterator[Pool]:
    """For a fixture: mathematics and gym ask this pool, whose limit no ordinary comparison comes near."""
    pool = Pool(size=2, timeout_s=60)
    with pytest.MonkeyPatch.context() as patched:
        for module in (mathematics, gym):
            patched.setattr(module, "grade_in_worker", pool.ask)
        yield pool
    pool.close()


def worker_maker() -> Iterator[MakeWorker]:
    """For a fixture: make workers that run a command; they are closed after the test."""
    made: list[Worker] = []

    def make(command: tuple[str, ...], timeout_s: float = 60) -> Worker:
        made.append(Worker(timeout_s, command))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def is_running(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
