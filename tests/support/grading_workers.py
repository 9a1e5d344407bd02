"""Workers for grading: with long limits for busy machines, or running a program of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rethink.grading.pool import Pool, Worker
from rethink.problems import gym, mathematics

MakeWorker = Callable[..., Worker]


def long_timeout_pool() -> Iterator[Pool]:
    """For a fixture: mathematics asks this pool, and gym another one, whose limits no ordinary comparison comes near."""
    pool, gym_pool = Pool(size=2, timeout_s=60), Pool(size=2, timeout_s=60)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mathematics, "grade_in_worker", pool.ask)
        patched.setattr(gym, "grade_in_worker", gym_pool.ask)
        yield pool
    pool.close()
    gym_pool.close()


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
