"""Concurrent work behind a function that is not async, with prompt ends on failure and on Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

LINGER_S = 1.0
"""How long an interrupted call waits for its connections to close."""


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from an event loop in a thread of its own, since the caller's thread may run a loop already
    (a notebook does). What the coroutine raises is raised, a KeyboardInterrupt too. An interrupt of the wait (Ctrl-C)
    cancels the coroutine and is raised at once."""
    loop, done = asyncio.new_event_loop(), threading.Event()
    task = loop.create_task(work)
    threading.Thread(target=_drive, args=(loop, task, done), name="endpoint", daemon=True).start()
    try:
        done.wait()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the loop may have closed in the meantime
            loop.call_soon_threadsafe(task.cancel)
        done.wait(LINGER_S)
        raise
    return task.result()


def told(work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """What a coroutine tells of, in the caller's thread, while it goes on in a thread of its own; then its error, if it
    ends with one. Leaving early cancels it."""
    items: SimpleQueue[list[T]] = SimpleQueue()

    async def work_to_the_end() -> None:
        try:
            await work(lambda item: items.put([item]))
        finally:
            items.put([])

    loop, done = asyncio.new_event_loop(), threading.Event()
    task = loop.create_task(work_to_the_end())
    threading.Thread(target=_drive, args=(loop, task, done), name="told", daemon=True).start()
    try:
        while item := items.get():
            yield item[0]
    except BaseException:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
        done.wait(LINGER_S)
        raise
    done.wait()
    task.result()


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T], done: threading.Event) -> None:
    over = loop.create_task(asyncio.wait([task]))
    try:
        while not over.done():
            # A KeyboardInterrupt or SystemExit of the work's own also stops the loop, in the middle of things: going on
            # ends them in order, and the task then has it as its error.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                loop.run_until_complete(over)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    finally:
        done.set()


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of them to the end. The first failure cancels the others and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
