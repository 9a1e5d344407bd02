"""Symbolic equality by math-verify, in a process of its own that can be killed.

A model's answer can keep a computer algebra system busy for ever, inside one call in C that no signal interrupts. So
the comparison runs in a worker (this file, run as a module) that reads and writes JSON lines; one that takes too long
is killed, its answer is not judged, and the next answer gets a new worker.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO

from rethink.types import Verdict

LIMIT_S = 5.0
START_LIMIT_S = 120.0
ORPHAN_LIMIT_S = 600
"""A worker ends itself when one answer takes this long: whoever should have killed it is gone."""


class Worker:
    """One killable process, started when first needed; calls from several threads take turns."""

    def __init__(self, limit_s: float = LIMIT_S, command: tuple[str, ...] | None = None) -> None:
        self.limit_s = limit_s
        self.command = command or (sys.executable, "-m", "rethink.problems.symbolic")
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._turn = threading.Lock()

    def compare(self, answer: str, gold: str) -> Verdict:
        """Right or wrong by symbolic equality; not judged when the worker dies or passes the limit."""
        with self._turn:
            try:
                process = self._started()
                assert process.stdin is not None
                process.stdin.write(json.dumps([answer, gold]) + "\n")
                process.stdin.flush()
                right, reason = json.loads(self._line(self.limit_s))
                return Verdict(right, reason)
            except queue.Empty:
                self.close()
                return Verdict(None, f"no verdict from the symbolic comparison within {self.limit_s:g} s")
            except (OSError, ValueError):
                self.close()
                return Verdict(None, "the process of the symbolic comparison ended")

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # what was written to a dead process cannot be flushed
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it was killed since the last answer, for memory say
        if self._process is None:
            self._lines = queue.Queue()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal is for us: it must not cost the answer under way
            )
            assert self._process.stdout is not None
            threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True).start()
            self._line(START_LIMIT_S)  # "ready": importing takes seconds that are not the answer's fault
        return self._process

    def _line(self, limit_s: float) -> str:
        line = self._lines.get(timeout=limit_s)
        if not line:
            raise OSError("the worker has ended")
        return line


def _forward(pipe: IO[str], lines: queue.Queue[str]) -> None:
    try:
        for line in pipe:
            lines.put(line)
    except ValueError:  # closed under our feet by close()
        pass
    lines.put("")


_worker = Worker()
compare = _worker.compare


def serve() -> None:
    """The worker's side: one [answer, gold] per line in, one [right, reason] per line out."""
    import math_verify  # noqa: F401  (imported before "ready", as it takes seconds)

    print("ready", flush=True)
    for line in sys.stdin:
        signal.alarm(ORPHAN_LIMIT_S)
        print(json.dumps(_judge(*json.loads(line))), flush=True)
        signal.alarm(0)


def _judge(answer: str, gold: str) -> tuple[bool | None, str]:
    from math_verify import parse, verify

    try:
        found, wanted = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (answer, gold))
        if not found or not wanted:
            return False, "the answer cannot be read as mathematics"
        return bool(verify(wanted, found, timeout_seconds=None)), "compared by math-verify"
    except Exception as err:  # whatever a computer algebra system raises, it is no verdict
        return None, f"math-verify failed: {type(err).__name__}"


if __name__ == "__main__":
    serve()
