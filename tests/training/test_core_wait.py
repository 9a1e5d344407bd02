"""The warning about a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rethink.jsonl import Record
from rethink.training.core_wait import busy_machine, core_wait_s


def test_seconds_are_summed_over_threads(tmp_path: Path) -> None:
    """Guards against the wrong column (the first is time on a core), nanoseconds read as something else, and a failure
    because a thread ended while it was read, or a system that has no such files."""
    for name, text in {"1": "900 1500000000 7\n", "2": "5 250000000 1\n", "3": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "4").mkdir()
    assert core_wait_s(tmp_path) == pytest.approx(1.75)
    assert core_wait_s(tmp_path / "missing") == 0.0


@pytest.mark.parametrize(
    ("record", "is_busy"),
    [
        ({"sample_s": 6.0, "update_s": 4.0, "core_wait_s": 5.0}, True),
        ({"sample_s": 6.0, "update_s": 4.0, "core_wait_s": 3.0}, False),  # two threads had 20 s
        ({"sample_s": 2.0, "update_s": 1.0, "core_wait_s": 5.0}, False),  # too short to tell
        ({"evaluate_s": 9.0}, False),
    ],
)
def test_a_long_wait_is_a_warning(record: Record, is_busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a warning at each start of another program, and a limit that forgets the number of threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = busy_machine(record)
    assert bool(found) == is_busy
    assert all("in 10 s, the 2 threads of this run waited 5 s" in line for line in found)
