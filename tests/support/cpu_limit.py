"""A limit on the work of a test, for code that must end soon whatever it reads."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def cpu_limit(seconds: float = 30.0) -> Iterator[None]:
    """Fail, in place of a hang, if the work in this context takes more CPU time than that. A busy machine does not count.

    The failure is no `Exception`, so that a verifier cannot take it for a fault of its comparison."""

    def fail(*_: object) -> None:
        pytest.fail(f"not done after {seconds:g} seconds of CPU time")

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
