"""Ranks that are threads of this process, so that exchanges can be tested without torchrun."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rethink.distributed import Ranks
from rethink.errors import UserError

T = TypeVar("T")

SIZES = [1, 2, 3, 5]


class Exchange:
    """What all ranks have put down in the current exchange."""

    def __init__(self, size: int) -> None:
        self.values: list[bytes] = [b""] * size
        self.barrier = threading.Barrier(size)


class ThreadRank(Ranks):
    """A rank in a thread. Values are pickled, as between processes; `n_exchanges` counts calls of `gather`."""

    def __init__(self, rank: int, exchange: Exchange) -> None:
        super().__init__(rank, len(exchange.values))
        self.exchange = exchange
        self.n_exchanges = 0

    def gather(self, value: T) -> list[T]:
        self.n_exchanges += 1
        self.exchange.values[self.rank] = pickle.dumps(value)
        self.exchange.barrier.wait(60)
        found = [value if k == self.rank else pickle.loads(data) for k, data in enumerate(self.exchange.values)]
        self.exchange.barrier.wait(60)  # no rank may overwrite a value before all have read it
        return found


def run_on_ranks(size: int, work: Callable[[ThreadRank], Any]) -> list[Any]:
    """Return each rank's result, or its UserError; raise any other exception."""
    exchange = Exchange(size)
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = work(ThreadRank(rank, exchange))
        except UserError as err:
            found[rank] = err
        except BaseException as err:
            found[rank] = err
            exchange.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [x for x in found if isinstance(x, BaseException) and not isinstance(x, UserError)]
    # A broken barrier is only the consequence of another rank's error.
    for error in sorted(errors, key=lambda x: isinstance(x, threading.BrokenBarrierError)):
        raise error
    return found
