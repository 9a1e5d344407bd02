"""Two commands never write to the same folder or file: the second one names the first."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rethink.lock import Lock
from support.command_line import Rethink, assert_one_message
from support.processes import start, wait_for

COMMANDS = {
    "eval": "eval tiny --on countdown --recipe demo-think-twice --out out",
    "eval --resume": "eval tiny --on countdown --recipe demo-think-twice --out out --resume",
    "cross": "cross tiny tiny-signs --on countdown --recipe demo-think-twice --out out",
    "answer": "answer tiny --file a.jsonl --out b.jsonl",
    "answer --resume": "answer tiny --file a.jsonl --out b.jsonl --resume",
    "grade": "grade a.jsonl --out b.jsonl",
    "prepare": "prepare demo-gsr-data teacher.path= --out b.parquet",
    "export": "export model --out b",
}
LOCKED = {"answer": "b.jsonl", "grade": "b.jsonl", "prepare": "b.parquet", "export": "b.export"}


def hold(folder: Path) -> None:
    """Lock everything that the commands write to, say so, and wait to be killed."""
    locks = [Lock(folder / name, pytest.fail) for name in ("out", *set(LOCKED.values()))]
    (folder / "ready").touch()
    signal.pause()
    del locks


@pytest.mark.slow
def test_the_second_command_is_refused(rethink: Rethink, tmp_path: Path) -> None:
    """Two `answer --file` once wrote 18 lines for 9 questions."""
    (tmp_path / "out").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "5", "response": "5"}\n')
    process = start(hold, tmp_path)
    wait_for((tmp_path / "ready").exists)
    before = sorted(tmp_path.rglob("*"))
    for name, command in COMMANDS.items():
        file = LOCKED.get(name.split()[0], "out")
        assert_one_message(rethink(*command.split()), f"{file} is in use by process {process.pid} on ")
    assert sorted(tmp_path.rglob("*")) == before
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert rethink(*COMMANDS["grade"].split()).code == 0
