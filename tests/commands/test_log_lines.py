"""Progress without a terminal."""

from __future__ import annotations

import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from rethink.commands import log_lines
from rethink.commands.log_lines import LogLines, Task


def test_a_line_comes_at_each_interval_and_at_the_end() -> None:
    """Guards against logs that say nothing until the end, and against a line for each update."""
    lines: list[str] = []
    with LogLines(lines.append, interval_s=0.05) as bar:
        task = bar.add_task("grpo", total=1000, completed=100)
        for n in range(101, 1001):
            bar.update(task, completed=n, note=f"reward {n}")
        assert len(lines) < 5
        time.sleep(0.12)
    assert lines[-1].startswith("grpo: 1000 of 1000, reward 1000, took ")
    assert 2 <= len(lines) <= 8


def test_the_time_left_counts_what_this_process_has_done() -> None:
    """Guards against a resumed run that promises to end too early, because the first half took no time."""
    task = Task("eval", total=200, completed=150, first=100, started=0.0)
    assert task.line(600.0) == "eval: 150 of 200, 10 min left"
    assert Task("eval", 200, 100, 100, 0.0).line(600.0) == "eval: 100 of 200"


def test_the_lines_end_with_an_error() -> None:
    """Guards against a thread that prints after the command has failed."""
    lines: list[str] = []
    bar = LogLines(lines.append, interval_s=0.01)
    bar.add_task("eval", total=3)
    with suppress(ValueError), bar:
        raise ValueError
    n = len(lines)
    time.sleep(0.03)
    assert len(lines) == n


def test_the_last_line_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: where the minute ended in the last evaluation of a run, the run's last line was there twice."""
    lines: list[str] = []
    now = 100.0
    monkeypatch.setattr(log_lines, "time", SimpleNamespace(monotonic=lambda: now))
    with LogLines(lines.append) as bar:
        bar.update(bar.add_task("eval", total=3), completed=3)
        now = 107.0
        bar._print()
        now = 130.0
    assert lines == ["eval: 3 of 3, took 7 s"]
