"""A pool of worker processes for comparisons that may never end.

A model's answer can keep a computer algebra system busy forever inside one C call that no signal interrupts, or use up all
memory, and a user's function may do anything. So such work goes to a fixed number of workers (`worker.py`) over JSON lines.
A worker that takes too long is killed with all processes that it started, and replaced; its answer is not graded.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import IO, Any

from rethink.errors import UserError
from rethink.types import Verdict

TIMEOUT_S = 5.0
"""Wall-clock limit for one answer."""
START_TIMEOUT_S = 120.0
"""Limit for importing what a task needs; this time does not count against the answer."""
ANSWERS_PER_WORKER = 5000
"""A worker is replaced after this many answers, because the caches of a computer algebra system grow."""
CACHED_VERDICTS = 50_000
CALL_EVERY = 20
"""After this many timeouts of a user's function in a row, only every 20th call is made, and the run continues."""
TIMED_OUT = "no verdict within"
_RIGHT = {True: True, False: False, None: None}


class Worker:
    """A process that can be killed; it starts on first use. Not thread-safe."""

    def __init__(
        self, timeout_s: float = TIMEOUT_S, command: tuple[str, ...] | None = None, data_bytes: int = 0
    ) -> None:
        self.timeout_s = timeout_s
        self.command = command or (sys.executable, "-m", "rethink.grading.worker", str(timeout_s), str(data_bytes))
        self._owner = 0
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._loaded: set[str] = set()
        self._n_answers = 0
        self._path: list[str] = []

    def ask(self, task: str, arguments: list[Any]) -> Verdict:
        """Return the task's verdict; not graded if the process dies or times out. Raise UserError if a user's function
        cannot be imported or does not return a verdict.
        """
        try:
            self._start_if_needed()
            if task not in self._loaded:
                _verdict(self._exchange([task], START_TIMEOUT_S))
                self._loaded.add(task)
            answer = self._exchange([task, arguments], self.timeout_s)
            self._n_answers += 1
            return _verdict(answer)
        except UserError:  # is a ValueError too, but says nothing about the process
            raise
        except queue.Empty:
            self.close()
            named = f"{task}: " if _is_user_function(task) else ""
            return Verdict(None, f"{named}{TIMED_OUT} {self.timeout_s:g} s")
        except (OSError, ValueError, TypeError, LookupError, RecursionError):  # a closed pipe, or an invalid answer
            self.close()
            if _is_user_function(task):
                return Verdict(None, f"{task}: its process ended (a crash, an exit, or out of memory)")
            return Verdict(None, "the process that compared the answer ended")

    def close(self) -> None:
        """Kill the process, if it runs, and the processes that it started."""
        if self._process is not None and self._owner == os.getpid():
            if self._process.returncode is None:  # otherwise its id may belong to another process by now
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # data for a dead process cannot be flushed
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _start_if_needed(self) -> None:
        if self._owner != os.getpid():  # this is a fork: the process and its answers belong to the parent
            self._process, self._owner = None, os.getpid()
        if self._process is not None and self._needs_restart(self._process):
            self.close()
        if self._process is None:
            self._lines, self._loaded, self._n_answers = queue.Queue(), set(), 0
            self._path = list(sys.path)
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                # Some puzzles are built from sets of words. The worker can import whatever this process can.
                env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(self._path)},
                start_new_session=True,  # Ctrl-C in a terminal must not kill the worker
            )
            assert self._process.stdout is not None
            threading.Thread(target=_forward_lines, args=(self._process.stdout, self._lines), daemon=True).start()

    def _needs_restart(self, process: subprocess.Popen[str]) -> bool:
        """Return whether the process was killed since the last answer (by the out-of-memory killer, for example), has given
        enough answers, or has an outdated `sys.path`.
        """
        return process.poll() is not None or self._n_answers >= ANSWERS_PER_WORKER or self._path != sys.path

    def _exchange(self, request: list[Any], timeout_s: float) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._lines.empty():  # a line without a request
            raise OSError("the worker wrote an unexpected line")
        killer = threading.Timer(timeout_s, self._process.kill)  # writing blocks while nobody reads
        killer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        finally:
            killer.cancel()
        line = self._lines.get(timeout=timeout_s)
        if not line:
            raise OSError("the worker has ended")
        return json.loads(line)


def _is_user_function(task: str) -> bool:
    return ":" in task  # module:function


def _verdict(answer: Any) -> Verdict:
    """Return the verdict in a worker's answer. Raise UserError for a refusal, other exceptions for an invalid answer."""
    if isinstance(answer, dict):
        raise UserError(answer["refused"])
    if len(answer) == 2:
        right, reason = answer
        return Verdict(_RIGHT[right], str(reason))
    right, reason, extracted, lenient, score = answer
    return Verdict(_RIGHT[right], reason, extracted, lenient, score)


class Pool:
    """A fixed number of workers for any number of threads. Verdicts are cached, because models repeat answers; those of
    users' functions (`data_bytes` above 0) are not, because they may depend on more than their arguments.
    """

    def __init__(
        self, size: int, timeout_s: float = TIMEOUT_S, command: tuple[str, ...] | None = None, data_bytes: int = 0
    ) -> None:
        self.size = size
        self._caches = data_bytes == 0
        self._workers = [Worker(timeout_s, command, data_bytes) for _ in range(size)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()  # last used first: no more processes start than needed
        for worker in self._workers:
            self._free.put(worker)
        self._verdicts: dict[bytes, Verdict] = {}
        self._n_timeouts: dict[str, int] = {}

    def ask(self, task: str, arguments: list[Any]) -> Verdict:
        """Return the task's verdict; wait for a free worker. Safe to call from any thread."""
        key = hashlib.sha256(json.dumps([task, arguments]).encode()).digest()  # arguments may be long
        known = self._verdicts.get(key)
        if known is not None:
            return known
        n_timeouts = self._n_timeouts.get(task, 0)
        if n_timeouts >= CALL_EVERY and n_timeouts % CALL_EVERY:
            self._n_timeouts[task] = n_timeouts + 1
            return Verdict(None, f"{task}: not called, because it gave no verdict in time {CALL_EVERY} times in a row")
        worker = self._free.get()
        try:
            verdict = worker.ask(task, arguments)
        finally:
            self._free.put(worker)
        if _is_user_function(task):
            self._n_timeouts[task] = n_timeouts + 1 if verdict.reason.startswith(f"{task}: {TIMED_OUT}") else 0
        if verdict.right is not None and self._caches:  # a failure may be temporary
            if len(self._verdicts) >= CACHED_VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict

    def close(self) -> None:
        """Kill all processes; they start again when needed."""
        for worker in self._workers:
            worker.close()


def _forward_lines(pipe: IO[str], lines: queue.Queue[str]) -> None:
    try:
        for line in pipe:
            lines.put(line)
    except ValueError:  # closed by close()
        pass
    lines.put("")


SIZE = max(1, min(8, os.cpu_count() or 1))
POOL = Pool(SIZE)
atexit.register(POOL.close)


@cache
def user_pool(timeout_s: float, data_bytes: int) -> Pool:
    """Return the workers for users' functions within these limits."""
    pool = Pool(SIZE, timeout_s, data_bytes=data_bytes)
    atexit.register(pool.close)
    return pool


def grade_in_worker(task: str, arguments: list[Any]) -> Verdict:
    """Return the verdict of a worker's task (see `worker.TASKS`) on JSON arguments; not graded on any failure."""
    return POOL.ask(task, arguments)
