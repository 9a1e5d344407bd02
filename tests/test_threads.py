"""Tasks in threads: results in order, errors that stop the others, and a share of the cores for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from threading import Event

import pytest
import torch

from rethink import threads

TIMEOUT_S = 60
"""For events that should happen at once."""


@pytest.fixture(autouse=True)
def _same_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "n_items", "n"), [("cpu", 7, 3), ("cpu", 2, 2), ("cpu", 0, 1), ("meta", 7, 1)])
def test_number_of_workers(device: str, n_items: int, n: int) -> None:
    """Guards against workers without work, none at all, and several on a device with one queue."""
    torch.set_num_threads(3)
    assert threads.n_workers(torch.device(device), n_items) == n


def test_results_come_in_the_order_of_tasks() -> None:
    """Guards against results in the order in which they are finished, and a thread for a single task."""
    second_done = Event()

    def slow(_: Event) -> str:
        assert second_done.wait(TIMEOUT_S)
        return "first"

    def fast(_: Event) -> str:
        second_done.set()
        return "second"

    assert threads.run([slow, fast]) == ["first", "second"]
    assert threads.run([lambda _: threading.current_thread()]) == [threading.current_thread()]


@pytest.mark.parametrize(("n_cores", "n_tasks", "each"), [(2, 2, 1), (4, 2, 2), (2, 3, 1)])
def test_tasks_share_the_cores(n_cores: int, n_tasks: int, each: int) -> None:
    """Guards against tasks that all use all cores, and a setting that stays in the caller's thread."""
    torch.set_num_threads(n_cores)
    assert threads.run([lambda _: torch.get_num_threads()] * n_tasks) == [each] * n_tasks
    assert torch.get_num_threads() == n_cores


def test_tasks_use_the_callers_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a machine's second rank that trains or samples on the first GPU."""
    current = threading.local()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(current, "gpu", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: setattr(current, "gpu", gpu))
    for gpu in (3, 1):
        torch.cuda.set_device(gpu)
        assert threads.run([lambda _: torch.cuda.current_device()] * 2) == [gpu, gpu]


@pytest.mark.parametrize("fails", [False, True])
def test_later_threads_have_all_cores(fails: bool) -> None:
    """Guards against later threads with one core: torch gives a new thread the number that any thread has set last."""
    barrier = threading.Barrier(3)

    def task(_: Event) -> None:
        barrier.wait(TIMEOUT_S)
        if fails:
            raise ValueError

    threads._pool.cache_clear()  # only new workers set their number
    torch.set_num_threads(3)
    with suppress(ValueError):
        threads.run([task] * 3)
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join(TIMEOUT_S)
    assert found == [3]


def test_an_error_stops_the_other_tasks() -> None:
    """Guards against tasks that continue in the background, and `Stopped` in place of the error."""
    ended: list[str] = []

    def wait(stop: Event) -> None:
        assert stop.wait(TIMEOUT_S)
        ended.append("stopped")
        raise threads.Stopped

    def fail(_: Event) -> None:
        raise ValueError("a task failed")

    for tasks in ([wait, fail], [fail, wait]):
        with pytest.raises(ValueError, match="a task failed"):
            threads.run(tasks)
    assert ended == ["stopped", "stopped"]


def test_an_interrupt_of_the_caller_stops_all_tasks() -> None:
    """Guards against an interrupt that has to wait for hours of work."""

    def wait(stop: Event) -> None:
        assert stop.wait(TIMEOUT_S)
        raise threads.Stopped

    with pytest.raises(KeyboardInterrupt), threads.running([wait, wait]) as futures:
        raise KeyboardInterrupt
    assert all(isinstance(future.exception(), threads.Stopped) for future in futures)
