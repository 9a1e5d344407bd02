"""Work in threads: results in order, failures that stop the others and come out, and a core for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from threading import Event

import pytest
import torch

from rethink import threads

PATIENCE_S = 60
"""For what must happen; nothing waits that long unless it never happens."""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "pieces", "wanted"), [("cpu", 7, 3), ("cpu", 2, 2), ("cpu", 0, 1), ("meta", 7, 1)])
def test_how_many_workers(device: str, pieces: int, wanted: int) -> None:
    """Guards against workers without work, none at all, and several on a device that has one queue."""
    torch.set_num_threads(3)
    assert threads.n_workers(torch.device(device), pieces) == wanted


def test_results_come_in_the_order_of_the_works() -> None:
    """Guards against results in the order in which they are ready: the first ends last here."""
    second = Event()

    def slow(_: Event) -> str:
        assert second.wait(PATIENCE_S)
        return "first"

    def fast(_: Event) -> str:
        second.set()
        return "second"

    assert threads.run([slow, fast]) == ["first", "second"]


def test_a_single_work_is_done_here() -> None:
    """Guards against a thread, and its start, for nothing."""
    assert threads.run([lambda _: threading.current_thread()]) == [threading.current_thread()]


@pytest.mark.parametrize(("cores", "works", "each"), [(2, 2, 1), (3, 3, 1), (4, 2, 2), (2, 3, 1)])
def test_cores_are_shared_out(cores: int, works: int, each: int) -> None:
    """Guards against workers that all take all cores, and against a setting that stays in the thread that called them."""
    torch.set_num_threads(cores)
    assert threads.run([lambda _: torch.get_num_threads()] * works) == [each] * works
    assert torch.get_num_threads() == cores


def test_threads_work_on_the_gpu_of_their_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the second rank of a machine that trains, or samples, with streams of the first GPU."""
    present = threading.local()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(present, "gpu", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: setattr(present, "gpu", gpu))
    torch.cuda.set_device(3)
    assert threads.run([lambda _: torch.cuda.current_device()] * 2) == [3, 3]
    torch.cuda.set_device(1)
    assert threads.run([lambda _: torch.cuda.current_device()] * 2) == [1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_begin_later_are_not_workers(fails: bool) -> None:
    """A thread of the caller's own that began after work in threads had one core: torch gives a new one what was set last
    anywhere."""

    all_there = threading.Barrier(3)

    def work(_: Event) -> None:
        all_there.wait(PATIENCE_S)
        if fails:
            raise ValueError("mine")

    threads._pool.cache_clear()  # only new workers set their number
    torch.set_num_threads(3)
    with suppress(ValueError):
        threads.run([work] * 3)
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join(PATIENCE_S)
    assert found == [3]


def test_a_failure_stops_the_others_and_comes_out_after_the_end_of_all() -> None:
    """Guards against a thread that goes on in the background, and `Stopped` in place of what had happened."""
    ended: list[str] = []

    def waits(stop: Event) -> None:
        assert stop.wait(PATIENCE_S)
        ended.append("stopped")
        raise threads.Stopped

    def fails(_: Event) -> None:
        raise ValueError("a piece is broken")

    for works in ([waits, fails], [fails, waits]):
        with pytest.raises(ValueError, match="a piece is broken"):
            threads.run(works)
    assert ended == ["stopped", "stopped"]


def test_an_interrupt_here_stops_all() -> None:
    """Guards against an interrupt that has to wait for work that takes hours."""

    def waits(stop: Event) -> None:
        assert stop.wait(PATIENCE_S)
        raise threads.Stopped

    with pytest.raises(KeyboardInterrupt), threads.running([waits, waits]) as futures:
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
