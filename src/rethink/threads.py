"""Run tasks in threads, each with its own share of the CPU's cores.

On a small machine two threads with one core each are faster than one thread that splits every operation in two: most
operations are too short for that. Results depend on how the work was split into tasks, never on timing.
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
    """Raised by a task that ends early because another one failed or the run was interrupted."""


def n_workers(device: torch.device, n_items: int) -> int:
    """Return the number of tasks to split this many items into: at most one per core on a CPU, one on a GPU."""
    return 1 if device.type != "cpu" else max(1, min(torch.get_num_threads(), n_items))


@contextmanager
def running(tasks: Sequence[Callable[[Event], T]]) -> Iterator[list[Future[T]]]:
    """Run each task in its own thread, on the caller's GPU, while the context is open; yield the futures.

    Each task is passed an event, which is set when the context exits with an error or another task fails: it should then
    raise `Stopped`. The context waits for all tasks to end, and raises the first error of a task.
    """
    n_cores = torch.get_num_threads()
    n_threads = max(1, n_cores // max(1, len(tasks)))
    stop = Event()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    futures = [_pool(n_threads).submit(_run_task, task, stop, gpu) for task in tasks]
    try:
        yield futures
    except BaseException:
        stop.set()
        raise
    finally:
        errors = [future.exception() for future in futures]
        torch.set_num_threads(n_cores)  # a thread that starts later would take the number that the tasks' threads set
    for error in errors:
        if error is not None and not isinstance(error, Stopped):
            raise error


def run(tasks: Sequence[Callable[[Event], T]]) -> list[T]:
    """Run all tasks and return their results, in order; a single task runs in this thread.

    Raise the first error of a task, after all have ended."""
    if len(tasks) == 1:
        return [tasks[0](Event())]
    with running(tasks) as futures:
        pass
    return [future.result() for future in futures]


class Background:
    """One thread that runs tasks in order, with as many cores as the thread that makes it, and on the caller's GPU."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "rethink-background", _limit_cores, (torch.get_num_threads(),))

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Return the future of a task, which begins once those before it have ended."""
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        return self._pool.submit(_run_task, lambda _stop: task(), Event(), gpu)

    def close(self) -> None:
        """Wait for the running task to end, and drop those that have not begun."""
        self._pool.shutdown(cancel_futures=True)


def alone(work: Callable[[], T]) -> T:
    """Return the result of work that always runs on one core, so that it has the same bits in whichever thread it is asked
    for. On a GPU, it makes no difference."""
    if torch.cuda.is_initialized():
        return work()
    return _pool(1).submit(work).result()


def _run_task(task: Callable[[Event], T], stop: Event, gpu: int | None) -> T:
    if gpu is not None:
        torch.cuda.set_device(gpu)  # a new thread uses GPU 0, whichever GPU its process uses
    try:
        return task(stop)
    except BaseException:
        stop.set()
        raise


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Return threads in which torch uses `n_threads` cores each. They are reused: a new thread has to warm up first."""
    return ThreadPoolExecutor(1024, "rethink", initializer=_limit_cores, initargs=(n_threads,))


def _limit_cores(n_threads: int) -> None:
    torch.get_num_threads()  # without this call, the thread would use the number that was set last in any thread
    torch.set_num_threads(n_threads)
