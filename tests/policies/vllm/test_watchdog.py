"""The watchdog ends a server, and the server's children, when the trainer is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import wait_for

FORK = """
import os, sys, time
child = os.fork()
if child:
    open(sys.argv[1], "w").write(f"{os.getpid()} {child}")
time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_ends_with_a_killed_trainer(tmp_path: Path) -> None:
    """Guards against servers that keep a GPU's memory after `kill -9` of the run."""
    pids = tmp_path / "pids"
    watchdog = [sys.executable, "-m", "rethink.policies.vllm.watchdog", sys.executable, "-c", FORK, str(pids)]
    script = f"import subprocess, time; subprocess.Popen({watchdog}, stdin=subprocess.PIPE); time.sleep(600)"
    trainer = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        child, grandchild = map(int, pids.read_text().split())
        assert is_running(child)
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    wait_for(lambda: not is_running(child) and not is_running(grandchild), timeout_s=60)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
