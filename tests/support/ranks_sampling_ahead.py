"""Ranks that fail, hang, are interrupted, or reorder their exchanges while they sample ahead."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from rethink.distributed import Ranks
from rethink.errors import UserError
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.policies.local import LocalPolicy
from rethink.training.losses import LOSSES
from rethink.training.run import Run
from rethink.training.trainer import Trainer
from support.command_line import command_line
from support.trained import changed

T = TypeVar("T")


def reordered(*arguments: object) -> None:
    """Run `rethink ...`; while a batch is sampled ahead, rank 0 exchanges for training first, rank 1 for sampling."""
    first = "training" if os.environ["RANK"] == "0" else "sampling"
    frozen, gather = DataParallelPolicy.frozen_weights, Ranks.gather
    exchanged: dict[str, threading.Event] = {}

    @contextmanager
    def watched(self: DataParallelPolicy) -> Iterator[None]:
        exchanged.update(training=threading.Event(), sampling=threading.Event())
        with frozen(self):
            yield
        assert all(event.is_set() for event in exchanged.values())
        exchanged.clear()

    def delayed(self: Ranks, value: T) -> list[T]:
        events = dict(exchanged)
        if events:
            here = "training" if threading.current_thread() is threading.main_thread() else "sampling"
            events[here].set()
            assert events[first].wait(60)
        return gather(self, value)

    DataParallelPolicy.frozen_weights = watched  # type: ignore[method-assign]
    Ranks.gather = delayed  # type: ignore[method-assign]
    command_line(*arguments)


def failing(fault: str, version: int, *arguments: object) -> None:
    """Run `rethink ...`; while the update of this version is trained, sampling on rank 1 or training fails."""
    if fault.startswith("training"):
        _at_update(version, TRAINING[fault])
    elif os.environ["RANK"] == "1":
        _at_sample(version, SAMPLING[fault])
    command_line(*arguments)


def interrupted_in_save(*arguments: object) -> None:
    """Run `rethink ...`; rank 1 is interrupted while it saves after its first batch."""
    save = Run.save

    def interrupted(self: Run, interim: bool = False) -> Path:
        if self.n_batches == 1:
            _interrupt()
        return save(self, interim)

    if os.environ["RANK"] == "1":
        Run.save = interrupted  # type: ignore[method-assign]
    command_line(*arguments)


def _at_sample(version: int, do: Callable[[], None]) -> None:
    """Call `do` before this rank first samples during the update of this version."""
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
    """Apply `do` to the loss of this version's update, during which the other thread samples."""
    step = Trainer._optimizer_step
    present: list[int] = []

    def noted(self: Trainer, *args: Any) -> None:
        present[:] = [self.version]
        step(self, *args)

    def changed_loss(loss: Tensor) -> Any:
        if present != [version]:
            return loss
        assert "rethink-background" in [thread.name[: len("rethink-background")] for thread in threading.enumerate()]
        return do(loss)

    Trainer._optimizer_step = noted  # type: ignore[method-assign,assignment]
    for kind, loss in LOSSES.items():
        LOSSES[kind] = changed(loss, changed_loss)


def _raise(error: Exception) -> None:
    raise error


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _broken_on_rank1(loss_T: Any) -> Any:
    if os.environ["RANK"] == "1":
        raise RuntimeError("training has run out of memory")
    return loss_T


SAMPLING: dict[str, Callable[[], None]] = {
    "hangs": lambda: time.sleep(600),
    "refuses": lambda: _raise(UserError("no server is left")),
    "breaks": lambda: _raise(RuntimeError("sampling has run out of memory")),
    "interrupts": _interrupt,
}

TRAINING: dict[str, Callable[[Any], Any]] = {
    "training explodes": lambda loss_T: loss_T * float("nan"),
    "training breaks": _broken_on_rank1,
}
