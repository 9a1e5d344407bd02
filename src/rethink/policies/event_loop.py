"""Run asynchronous code from ordinary functions, in an event loop in another thread. Ctrl-C stops it at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from queue import SimpleQueue
from typing import Any, TypeVar

from rethink.policies.cancel import Cancellation

T = TypeVar("T")

LINGER_S = 1.0
"""Seconds that an interrupted call waits for its connections to close."""


def iterate_in_thread(
    work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]], cancellation: Cancellation | None = None
) -> Generator[T, None, None]:
    """Yield each item that the coroutine passes to its argument, while it runs; then raise its error, if any.

    The coroutine runs in another thread, because the caller's may already run an event loop (as in a notebook). Closing
    the iterator or Ctrl-C cancels it. So does `cancellation`, also while nothing comes; then raise Cancelled."""
    if cancellation is not None:
        cancellation.check()
    items: SimpleQueue[list[T]] = SimpleQueue()
    done = threading.Event()

    async def run() -> None:
        try:
            await work(lambda item: items.put([item]))
        finally:
            items.put([])

    loop = asyncio.new_event_loop()
    task = loop.create_task(run())
    threading.Thread(target=_drive, args=(loop, task, done), name="event-loop", daemon=True).start()

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have closed in the meantime
            loop.call_soon_threadsafe(task.cancel)

    def stop() -> None:
        cancel()
        items.put([])  # the coroutine may not have begun, and then never ends

    try:
        with contextlib.nullcontext() if cancellation is None else cancellation.doing(stop):
            while item := items.get():
                yield item[0]
        if cancellation is not None:
            cancellation.check()
    except BaseException:
        cancel()
        done.wait(LINGER_S)
        raise
    done.wait()
    task.result()


def run_in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, or raise its error; see `iterate_in_thread`."""

    async def run(emit: Callable[[T], None]) -> None:
        emit(await work)

    [result] = iterate_in_thread(run)
    return result


async def gather(works: Iterable[Coroutine[Any, Any, None]], limit: int) -> None:
    """Run all coroutines, at most `limit` at a time.

    `works` should create each one lazily. The first failure cancels the others and is raised."""
    waiting = iter(works)

    async def run() -> None:
        for work in waiting:  # shared by all workers
            await work

    workers = [asyncio.create_task(run()) for _ in range(limit)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], done: threading.Event) -> None:
    try:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    finally:
        done.set()
