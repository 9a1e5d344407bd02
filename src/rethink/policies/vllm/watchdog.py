"""Run a command and end it when the parent process ends: `python -m rethink.policies.vllm.watchdog COMMAND ...`.

The standard input is a pipe from the parent. It closes when the parent ends for any reason (`kill -9` too); the command
and all processes that it started are then ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

GRACE_S = 5.0


def run(command: Sequence[str]) -> int:
    """Run the command to its end, or until the standard input closes, and return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_on_closed_input, args=(child.pid,), daemon=True).start()
    try:
        return child.wait()
    finally:
        _signal(child.pid, signal.SIGKILL)  # processes that the command left running


def _end_on_closed_input(group: int) -> None:
    sys.stdin.buffer.read()
    _signal(group, signal.SIGTERM)
    timer = threading.Timer(GRACE_S, _signal, (group, signal.SIGKILL))
    timer.daemon = True
    timer.start()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
