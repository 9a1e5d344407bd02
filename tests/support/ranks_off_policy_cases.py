"""What ranks do while they sample a batch ahead: fail, hang, are interrupted, or are ahead of each other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from rethink.distributed import Ranks
from rethink.errors import UserError
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.policies.local import LocalPolicy
from rethink.training import loop
from rethink.training.losses import LOSSES
from rethink.training.run import Run
from rethink.training.trainer import Trainer
from support.ranks_start import command_line
from support.trained import changed

T = TypeVar("T")


def crossed(*arguments: object) -> None:
    """`rethink ...`; whenever a batch is sampled ahead, the first exchange that rank 0 makes is of training, and that of
    rank 1 is of sampling."""
    first = "training" if os.environ["RANK"] == "0" else "sampling"
    frozen, gather = DataParallelPolicy.frozen_weights, Ranks.gather
    made: dict[str, threading.Event] = {}

    @contextmanager
    def watched(self: DataParallelPolicy) -> Iterator[None]:
        made.update(training=threading.Event(), sampling=threading.Event())
        with frozen(self):
            yield
        assert all(event.is_set() for event in made.values())
        made.clear()

    def told(self: Ranks, what: T) -> list[T]:
        if made:
            here = "sampling" if threading.current_thread() is threading.main_thread() else "training"
            made[here].set()
            assert made[first].wait(60)
        return gather(self, what)

    DataParallelPolicy.frozen_weights = watched  # type: ignore[method-assign]
    Ranks.gather = told  # type: ignore[method-assign]
    command_line(*arguments)


def failing(how: str, version: int, *arguments: object) -> None:
    """`rethink ...`; beside the update of this version rank 1 fails in sampling, or training fails."""
    if how.startswith("training"):
        _at_update(version, TRAINING[how])
    elif os.environ["RANK"] == "1":
        _at_sample(version, SAMPLING[how])
    command_line(*arguments)


def interrupted_in(where: str, *arguments: object) -> None:
    """`rethink ...`; rank 1 alone is interrupted in its first evaluation, or while it saves after it."""
    if os.environ["RANK"] == "1":
        owner: Any = loop if where == "evaluate_held_out" else Run
        act = getattr(owner, where)

        def acted(run: Run) -> Any:
            if run.n_batches == 1:
                _interrupt()
            return act(run)

        setattr(owner, where, acted)
    command_line(*arguments)


def _at_sample(version: int, do: Callable[[], None]) -> None:
    """`do` it before this rank first draws something beside the update of this version."""
    frozen, groups = DataParallelPolicy.frozen_weights, LocalPolicy.groups
    now: list[int] = []

    @contextmanager
    def watched(self: DataParallelPolicy) -> Iterator[None]:
        now.append(self.version)
        with frozen(self):
            yield
        now.clear()

    def sampled(self: LocalPolicy, *args: Any) -> Any:
        if now == [version]:
            now.clear()
            do()
        return groups(self, *args)

    DataParallelPolicy.frozen_weights = watched  # type: ignore[method-assign]
    LocalPolicy.groups = sampled  # type: ignore[method-assign,assignment]


def _at_update(version: int, do: Callable[[Any], Any]) -> None:
    """`do` it to the loss of this version's update, which must be trained beside sampling."""
    step = Trainer._optimizer_step
    present: list[int] = []

    def noted(self: Trainer, *args: Any) -> None:
        present[:] = [self.version]
        step(self, *args)

    def lost(loss: Tensor) -> Any:
        if present != [version]:
            return loss
        assert threading.current_thread() is not threading.main_thread()
        return do(loss)

    Trainer._optimizer_step = noted  # type: ignore[method-assign,assignment]
    for kind, loss in LOSSES.items():
        LOSSES[kind] = changed(loss, lost)


def _raise(error: Exception) -> None:
    raise error


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _broken_on_the_second(loss_T: Any) -> Any:
    if os.environ["RANK"] == "1":
        raise RuntimeError("training has run out of memory")
    return loss_T


SAMPLING: dict[str, Callable[[], None]] = {
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(600),
    "refuses": lambda: _raise(UserError("no server is left")),
    "breaks": lambda: _raise(RuntimeError("sampling has run out of memory")),
    "interrupts": _interrupt,
}

TRAINING: dict[str, Callable[[Any], Any]] = {
    "training explodes": lambda loss_T: loss_T * float("nan"),
    "training breaks": _broken_on_the_second,
}
