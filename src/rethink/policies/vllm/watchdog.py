"""Runs a command for as long as whoever started it lives: `python -m rethink.policies.vllm.watchdog COMMAND ...`.

The standard input is a pipe from that process. It closes when the process ends, however that came (`kill -9` too), and
the command, with all that it started, is then ended.
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


def keep(command: Sequence[str]) -> int:
    """Run the command to its end, or until the standard input closes; returns its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_input, args=(child.pid,), daemon=True).start()
    try:
        return child.wait()
    finally:
        _signal(child.pid, signal.SIGKILL)  # what the command left behind


def _end_with_input(group: int) -> None:
    sys.stdin.buffer.read()
    _signal(group, signal.SIGTERM)
    timer = threading.Timer(GRACE_S, _signal, (group, signal.SIGKILL))
    timer.daemon = True
    timer.start()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
