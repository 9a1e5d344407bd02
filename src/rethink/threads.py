"""Work on several cores: each thread runs torch's operations on its own share of them.

On a small machine two threads with a core each are faster than one thread whose every operation is split in two: most
operations are too short for that. What a piece of work computes depends on how the work was split, and never on timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Event
from typing import TypeVar

import torch

T = TypeVar("T")


class Stopped(Exception):
    """Somebody else's failure, or an interrupt, ended this piece of work early."""


def n_workers(device: torch.device, n_pieces: int) -> int:
    """Into how many shares to split work that has this many pieces: one per core on a CPU, one on a GPU."""
    return 1 if device.type != "cpu" else max(1, min(torch.get_num_threads(), n_pieces))


@contextmanager
def running(works: Sequence[Callable[[Event], T]]) -> Iterator[list[Future[T]]]:
    """Start every work, each in a thread of its own, on the caller's GPU. Leaving waits for all; leaving by an error, or
    because one of them failed, also asks the others to stop, by the event that each is given."""
    n_cores = torch.get_num_threads()
    n_threads = max(1, n_cores // max(1, len(works)))
    stop = Event()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    futures = [_pool(n_threads).submit(_guarded, work, stop, gpu) for work in works]
    try:
        yield futures
    except BaseException:
        stop.set()
        raise
    finally:
        errors = [future.exception() for future in futures]
        torch.set_num_threads(n_cores)  # else threads that are begun later anywhere would take the workers' number
    for error in errors:
        if error is not None and not isinstance(error, Stopped):
            raise error


def run(works: Sequence[Callable[[Event], T]]) -> list[T]:
    """The results of all works, in order; a single one is done here and now. The first error is raised, after the end of
    all."""
    if len(works) == 1:
        return [works[0](Event())]
    with running(works) as futures:
        pass
    return [future.result() for future in futures]


def _guarded(work: Callable[[Event], T], stop: Event, gpu: int | None) -> T:
    if gpu is not None:
        torch.cuda.set_device(gpu)  # every thread begins with the first one, whatever that of its process is
    try:
        return work(stop)
    except BaseException:
        stop.set()
        raise


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Threads that torch gives n_threads cores each. They are kept: a new thread would have to warm up again."""
    return ThreadPoolExecutor(1024, "rethink", initializer=_take_cores, initargs=(n_threads,))


def _take_cores(n_threads: int) -> None:
    torch.get_num_threads()  # a thread that has not asked yet would take whatever number is set last, anywhere
    torch.set_num_threads(n_threads)
