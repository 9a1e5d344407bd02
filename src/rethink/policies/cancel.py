"""Cancel a call that waits in another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rethink.errors import UserError


class EngineStoppedError(UserError):
    """Raised for every call of a policy whose engine has failed for good."""


class NaNLogitsError(UserError):
    """Raised for a call whose tokens cannot be drawn, because the model's logits are NaN or infinite."""


class Cancelled(Exception):
    """Raised in a thread whose call was cancelled."""


class Cancellation:
    """Cancels a call: `set` may be called from any thread, any number of times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self._is_set = False

    @property
    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Cancel the call, and run what is to be done about it."""
        with self._lock:
            self._is_set = True
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def check(self) -> None:
        """Raise Cancelled if the call was cancelled."""
        if self._is_set:
            raise Cancelled

    @contextmanager
    def doing(self, action: Callable[[], None]) -> Iterator[None]:
        """Run `action` if the call is cancelled within this context. Raise Cancelled if it was cancelled before."""
        with self._lock:
            if self._is_set:
                raise Cancelled
            self._actions.append(action)
        try:
            yield
        finally:
            with self._lock:
                if action in self._actions:
                    self._actions.remove(action)
