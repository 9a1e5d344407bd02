"""Stop signals: SIGTERM (schedulers send it) and SIGHUP (a closed terminal sends it) do what Ctrl-C does.

Only the main thread can handle signals; in any other thread, these contexts change nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]

SENT_BY_PROGRAMS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
REPEATED_S = 1.0
"""A signal that comes again this soon is the same request: torchrun and terminals pass on what a process already got."""


@dataclass
class Stop:
    """The signal that asked to stop; 0 if none came."""

    signal: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of a process that was asked to stop: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def stop_gracefully(on_stop: Callable[[], None]) -> Iterator[Stop]:
    """Call `on_stop` at the first Ctrl-C, SIGTERM or SIGHUP. The second one does what it would do without this context:
    it ends the work at once."""
    stop = Stop()
    received_at = 0.0
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received_at
        now = time.monotonic()
        if not stop.signal:
            stop.signal, received_at = number, now
            on_stop()
        elif now - received_at > REPEATED_S:
            _restore(before)
            signal.raise_signal(number)

    with _handling([signal.SIGINT, *SENT_BY_PROGRAMS], handle, before):
        yield stop


@contextmanager
def interrupt_on_sigterm(unless: bool = False) -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does. A second one ends the process.

    An exit with Ctrl-C's code becomes one with 128 plus the signal's number."""
    stop = Stop()
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        on_interrupt = signal.getsignal(signal.SIGINT)
        if callable(on_interrupt):  # asyncio, for example, has its own handler
            on_interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    with _handling(() if unless else SENT_BY_PROGRAMS, handle, before):
        try:
            yield
        except SystemExit as end:
            if stop.signal and end.code == 128 + signal.SIGINT:
                raise SystemExit(stop.exit_code) from end
            raise
        except BaseException as err:
            if _was_interrupted(err):
                raise SystemExit(stop.exit_code) from err
            raise


def _was_interrupted(error: BaseException) -> bool:
    """Return whether an error is an interrupt, or a library's error that wraps one: during an import, for example."""
    causes = (error, error.__cause__, error.__context__)
    return any(isinstance(cause, KeyboardInterrupt) or "KeyboardInterrupt" in str(cause) for cause in causes)


@contextmanager
def _handling(numbers: Sequence[int], handler: Handler, before: dict[int, Any]) -> Iterator[None]:
    """Handle these signals, and store their former handlers in `before`.

    An ignored signal stays ignored: `nohup` ignores SIGHUP, and scripts ignore SIGINT in their background jobs."""
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
