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
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import IO, Any

from rethink.errors import UserError
from rethink.grading.process import bare_environment, isolated, with_users_path
from rethink.grading.worker import GRACE_S, forks
from rethink.types import Verdict

TIMEOUT_S = 5.0
"""Wall-clock limit for one answer."""
START_TIMEOUT_S = 120.0
"""Limit for importing what a task needs; this time does not count against the answer."""
ANSWERS_PER_WORKER = 5000
"""A worker is replaced after this many answers, because the caches of a computer algebra system grow."""
END_TIMEOUT_S = 2.0
"""The time for a worker to kill what it started and to end, before it is killed."""
CACHED_VERDICTS = 50_000
CALL_EVERY = 20
"""After this many timeouts of a user's function in a row, only every 20th call is made, and the run continues."""
TIMED_OUT = "no verdict within"
_RIGHT = {True: True, False: False, None: None}


class Worker:
    """A process that can be killed; it starts on first use. Not thread-safe."""

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        command: tuple[str, ...] | None = None,
        data_bytes: int = 0,
        sandbox: bool = True,
    ) -> None:
        self.timeout_s = timeout_s
        self.command = command
        self.data_bytes = data_bytes
        self.sandbox = sandbox
        self._owner = 0
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._loaded: set[str] = set()
        self._n_requests = 0
        self._n_answers = 0
        self._path: list[str] = []
        self._folder = ""

    def ask(self, task: str, arguments: list[Any], warm_up: list[Any] | None = None) -> Verdict:
        """Return the task's verdict; not graded if the process dies or times out. Raise UserError if a user's function
        cannot be imported or does not return a verdict.

        `warm_up` are arguments to call a user's function with when it is loaded, in the worker itself.
        """
        try:
            self._start_if_needed()
            if task not in self._loaded:
                _verdict(self._exchange(task, "load", warm_up, START_TIMEOUT_S))
                self._loaded.add(task)
            kills_itself = self.command is None and forks(task, self.sandbox)
            answer = self._exchange(task, "grade", arguments, self.timeout_s + (GRACE_S if kills_itself else 0))
            self._n_answers += 1
            if isinstance(answer, dict) and "failed" in answer:
                failure = self._failure(task, answer["failed"] == "timeout")
                return replace(failure, reason=failure.reason + answer.get("hint", ""))
            return _verdict(answer)
        except UserError:  # is a ValueError too, but says nothing about the process
            raise
        except queue.Empty:
            self.close()
            return self._failure(task, timed_out=True)
        except (OSError, ValueError, TypeError, LookupError, RecursionError):  # a closed pipe, or an invalid answer
            self.close()
            return self._failure(task, timed_out=False)
        except BaseException:  # Ctrl-C: the next request must not get the answer to this one
            self.close()
            raise

    def _failure(self, task: str, timed_out: bool) -> Verdict:
        if timed_out:
            named = f"{task}: " if _is_user_function(task) else ""
            return Verdict(None, f"{named}{TIMED_OUT} {self.timeout_s:g} s")
        if _is_user_function(task):
            return Verdict(None, f"{task}: its process ended (a crash, an exit, or out of memory)")
        return Verdict(None, "the process that compared the answer ended")

    def close(self) -> None:
        """Kill the process, if it runs, and the processes that it started."""
        if self._process is not None and self._owner == os.getpid():
            self._let_end(self._process)
            if self._process.returncode is None:  # otherwise its id may belong to another process by now
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def _let_end(self, process: subprocess.Popen[str]) -> None:
        """Close the worker's input, which has it kill the fork that grades an answer, and end."""
        with suppress(OSError):  # data for a dead process cannot be flushed
            if process.stdin is not None:
                process.stdin.close()
        if self.command is None and any(forks(task, self.sandbox) for task in self._loaded):
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)

    def _start_if_needed(self) -> None:
        if self._owner != os.getpid():  # this is a fork: the process and its answers belong to the parent
            self._process, self._owner = None, os.getpid()
        if self._process is not None and self._needs_restart(self._process):
            self.close()
        if self._process is None:
            self._lines, self._loaded, self._path = queue.Queue(), set(), list(sys.path)
            self._n_answers = 0
            environment = bare_environment() if self.sandbox else {**os.environ, "PYTHONHASHSEED": "0"}
            self._folder = ""
            if self.data_bytes and self.sandbox:
                self._folder = environment["TMPDIR"] = tempfile.mkdtemp(prefix="rethink-")
            self._process = subprocess.Popen(
                self.command or self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal must not kill the worker
            )
            assert self._process.stdout is not None
            threading.Thread(target=_forward_lines, args=(self._process.stdout, self._lines), daemon=True).start()

    def _command(self) -> tuple[str, ...]:
        limits = (self.timeout_s, self.data_bytes, self.sandbox, self._folder)
        return (with_users_path if self.data_bytes else isolated)("rethink.grading.worker", *limits)

    def _needs_restart(self, process: subprocess.Popen[str]) -> bool:
        """Return whether the process was killed since the last answer (by the out-of-memory killer, for example), has given
        enough answers, or has an outdated `sys.path`.
        """
        return process.poll() is not None or self._n_answers >= ANSWERS_PER_WORKER or self._path != sys.path

    def _exchange(self, task: str, what: str, arguments: list[Any] | None, timeout_s: float) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._lines.empty():  # a line without a request
            raise OSError("the worker wrote an unexpected line")
        self._n_requests += 1
        killer = threading.Timer(timeout_s, self._process.kill)  # writing blocks while nobody reads
        killer.start()
        try:
            self._process.stdin.write(json.dumps([self._n_requests, task, what, arguments]) + "\n")
            self._process.stdin.flush()
        finally:
            killer.cancel()
        line = self._lines.get(timeout=timeout_s)
        if not line:
            raise OSError("the worker has ended")
        n, answer = json.loads(line)
        if n != self._n_requests:
            raise ValueError("the answer to another request")
        return answer


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
        self,
        size: int,
        timeout_s: float = TIMEOUT_S,
        command: tuple[str, ...] | None = None,
        data_bytes: int = 0,
        sandbox: bool = True,
    ) -> None:
        self.size = size
        self._caches = data_bytes == 0
        self._workers = [Worker(timeout_s, command, data_bytes, sandbox) for _ in range(size)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()  # last used first: no more processes start than needed
        for worker in self._workers:
            self._free.put(worker)
        self._verdicts: dict[bytes, Verdict] = {}
        self._n_timeouts: dict[str, int] = {}

    def ask(self, task: str, arguments: list[Any], warm_up: list[Any] | None = None) -> Verdict:
        """Return the task's verdict; wait for a free worker. Safe to call from any thread. See `Worker.ask`."""
        key = b""
        if self._caches:
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
            verdict = worker.ask(task, arguments, warm_up)
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


@cache
def built_in_pool(task: str) -> Pool:
    """Return the workers for a built-in task. Each has its own: one that is locked in cannot learn another."""
    pool = Pool(SIZE)
    atexit.register(pool.close)
    return pool


@cache
def user_pool(timeout_s: float, data_bytes: int, sandbox: bool = True) -> Pool:
    """Return the workers for users' functions within these limits."""
    pool = Pool(SIZE, timeout_s, data_bytes=data_bytes, sandbox=sandbox)
    atexit.register(pool.close)
    return pool


def grade_in_worker(task: str, arguments: list[Any]) -> Verdict:
    """Return the verdict of a worker's task (see `worker.TASKS`) on JSON arguments; not graded on any failure."""
    return built_in_pool(task).ask(task, arguments)
