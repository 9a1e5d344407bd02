"""Progress where there is no terminal: a line a minute, as logs of schedulers want it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.progress import TaskID

INTERVAL_S = 60.0


@dataclass
class Task:
    """What a line tells: how much is done, and a note. `first` was done before the task began."""

    label: str
    total: int | None
    completed: int
    first: int
    started: float
    note: str = ""

    def line(self, now: float) -> str:
        """Return the task's state: done, note, and the time left or taken.

        >>> Task("grpo", total=160, completed=40, first=0, started=0.0, note="solve reward 0.52").line(60.0)
        'grpo: 40 of 160, solve reward 0.52, 3 min left'
        """
        of_total = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.label}: {self.completed}{of_total}"]
        parts += [self.note] if self.note else []
        done = self.completed - self.first
        seconds = now - self.started
        if self.total is None:
            return ", ".join(parts)
        if self.completed >= self.total:
            parts.append(f"took {duration(seconds)}")
        elif done > 0:
            parts.append(f"{duration(seconds / done * (self.total - self.completed))} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(40), duration(200), duration(7300)
    ('40 s', '3 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class LogLines:
    """Print the state of a task every minute and at its end. It is used like a progress bar of rich."""

    def __init__(self, show: Callable[[str], None], interval_s: float = INTERVAL_S) -> None:
        self.show, self.interval_s = show, interval_s
        self.task: Task | None = None
        self._last: tuple[object, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> LogLines:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._print(again=False)

    def add_task(self, label: str, *, total: int | None, completed: int = 0, note: str = "") -> TaskID:
        """Begin to report a task."""
        self.task = Task(label, total, completed, completed, time.monotonic(), note)
        return TaskID(0)

    def update(self, task: TaskID, *, completed: int, note: str = "") -> None:
        """Set how much is done, and the note."""
        if self.task is not None:
            self.task.completed, self.task.note = completed, note or self.task.note

    def advance(self, task: TaskID, n: int = 1) -> None:
        """Count n more as done."""
        if self.task is not None:
            self.task.completed += n

    def _run(self) -> None:
        while not self._ended.wait(self.interval_s):
            self._print()

    def _print(self, again: bool = True) -> None:
        """Show the state of the task; if nothing has changed since the last line, only `again`."""
        if self.task is None:
            return
        state = (self.task, self.task.completed, self.task.note)
        line = self.task.line(time.monotonic())
        if line and (again or state != self._last):
            self.show(line)
        self._last = state
