"""Symbolic equality by math-verify, in a process of its own that can be killed.

A model's answer can keep a computer algebra system busy for ever, inside one call in C that no signal interrupts. So
the comparison runs in a worker (this file, run as a module) that reads and writes JSON lines; one that takes too long
is killed, its answer is not judged, and the next answer gets a new worker.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from typing import IO

from rethink.types import Verdict

LIMIT_S = 5.0
START_LIMIT_S = 120.0


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
            except (OSError, ValueError, queue.Empty):
                self.close()
                return Verdict(None, f"no verdict from the symbolic comparison within {self.limit_s:g} s")

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._lines = queue.Queue()
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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
    from math_verify import parse, verify

    def boxed(text: str) -> list[object]:
        return list(parse(f"\\boxed{{{text}}}", parsing_timeout=None))

    print("ready", flush=True)
    for line in sys.stdin:
        answer, gold = json.loads(line)
        try:
            found, wanted = boxed(answer), boxed(gold)
            if not found or not wanted:
                result = (False, "the answer cannot be read as mathematics")
            else:
                result = (bool(verify(wanted, found, timeout_seconds=None)), "compared by math-verify")
        except Exception as err:  # whatever a computer algebra system raises, it is no verdict
            print(json.dumps([None, f"math-verify failed: {type(err).__name__}"]), flush=True)
            continue
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    serve()
