"""Coroutines in another thread: results, errors, and an early end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from rethink.policies.event_loop import iterate_in_thread


def test_leaving_the_iterator_early_cancels_the_work() -> None:
    """Guards against requests that continue after an error in the grader."""
    ended = threading.Event()

    async def forever(emit: Callable[[int], None]) -> None:
        try:
            emit(1)
            await asyncio.sleep(600)
        finally:
            ended.set()

    for item in iterate_in_thread(forever):
        assert item == 1
        break
    assert ended.wait(20)


def test_errors_of_the_work_are_raised() -> None:
    """Guards against errors that end the iteration silently."""

    async def failing(emit: Callable[[int], None]) -> None:
        emit(2)
        raise ValueError("no more")

    found: list[int] = []
    with pytest.raises(ValueError, match="no more"):
        found.extend(iterate_in_thread(failing))
    assert found == [2]
