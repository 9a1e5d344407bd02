"""The worker's side of grading in a pool: read and write JSON lines until the input ends.

[1, "formulas", "load", null]               -> [1, [true, "ready"]]   import what the task needs
[2, "formulas", "grade", ["x + 1", "1 + x"]] -> [2, [true, "..."]]    right (null: not graded), and the reason
[3, "own:score", "grade", [["a", "b"], {}, 1]] -> [3, [false, "...", "", false, 0.5]]   a user's function: arguments,
                                               keywords and right_threshold; all fields of a verdict
                                            -> [3, {"refused": "..."}]   it cannot be imported, or returned no verdict
                                            -> [3, {"failed": "timeout"}]   or "ended": its process did

A task that might run what a reply says runs in a fork that is locked in (`sandbox.lockdown`) and killed after its
answer, so that nothing remains of it. What never does so is graded by the worker itself, once it is locked in.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from functools import cache
from typing import Any

from rethink.errors import UserError
from rethink.grading.denied import DENIED, NetworkWatch, explain
from rethink.grading.sandbox import kernel
from rethink.grading.sandbox.lockdown import Lockdown
from rethink.grading.user_code import call_user_function, import_function


@dataclass(frozen=True)
class Task:
    """A built-in task: module:function, whether each answer gets its own process, and a module:function that the
    worker calls with the same arguments before.
    """

    function: str
    forks: bool = False
    before: str = ""


TASKS = {
    "formulas": Task("rethink.grading.formulas.judge:judge"),
    "gym": Task("rethink.problems.gym:score", forks=True, before="rethink.problems.gym:remember_problem"),
}
MEMORY_BYTES = 3 * 2**30
"""Address space of a worker for built-in tasks."""
START_TIMEOUT_S, GRACE_S = 600, 5
"""A worker ends itself if a start takes this long, or an answer this much longer than its limit: then the process that
should have killed it is gone."""
MAX_ANSWER_BYTES = 2**20
_NO_THREADS = (
    "; threads from its import or first call (a pool, torch.set_num_threads above 1) do not exist in the sandbox: start "
    "them in each call, or do without"
)
_SIGNALS_OF_JOBS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Limits:
    """What a worker allows. `data_bytes` limits the memory that a user's function may write to; 0 is for built-in tasks,
    whose address space is limited. `folder` is what a function in the sandbox may write to.
    """

    timeout_s: float
    data_bytes: int = 0
    sandbox: bool = True
    folder: str = ""


def forks(task: str, sandbox: bool) -> bool:
    """Return whether each answer of this task gets its own process, which the worker kills in time."""
    return TASKS[task].forks if task in TASKS else ":" in task and sandbox


def serve(limits: Limits) -> None:
    """Answer requests until the input ends. Tasks cannot print or read: both streams are for requests and answers only."""
    requests, out = os.fdopen(os.dup(sys.stdin.fileno())), os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "r+") as devnull:
        os.dup2(devnull.fileno(), sys.stdin.fileno())
        os.dup2(devnull.fileno(), sys.stdout.fileno())
    _limit_memory(limits.data_bytes)
    kernel.adopt_orphans()
    outlive_signals()
    os.register_at_fork(after_in_child=_heed_signals)
    worker = _Worker(limits, requests.fileno(), (requests.fileno(), out.fileno()))
    for line in requests:
        n, task, what, arguments = json.loads(line)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a user's function may have set a handler
        signal.alarm(START_TIMEOUT_S if what == "load" else int(limits.timeout_s) + 1 + 2 * GRACE_S)
        answer = worker.load(task, arguments) if what == "load" else worker.grade(task, arguments)
        print(json.dumps([n, answer]), file=out, flush=True)
        signal.alarm(0)
        _empty(limits.folder)


@dataclass
class _Worker:
    limits: Limits
    requests: int
    pipes: tuple[int, ...]
    """Of the worker itself; no fork gets them."""
    lockdown: Lockdown | None = None
    refused: dict[str, str] = field(default_factory=dict)
    """Users' functions that do not work in the sandbox, and why."""
    has_threads: bool = False
    """Whether a user's function has started threads before the fork, which has none of them."""

    def load(self, task: str, warm_up: list[Any] | None) -> Any:
        """Import what the task needs. A user's function in the sandbox is called once with trusted arguments, the gold
        answer as the reply, so that what it loads at its first call stays loaded.
        """
        if task in self.refused:
            return {"refused": self.refused[task]}
        try:
            _load(task)
        except UserError as err:  # this process's parent could import it
            hint = f"; if it needs an environment variable: that {DENIED}" if self.limits.sandbox else ""
            return {"refused": f"{err}{hint}"}
        if forks(task, self.limits.sandbox):
            outside = None
            if warm_up is not None and task not in TASKS:
                outside = _warm_up(task, warm_up, self.limits.timeout_s)
                self.has_threads = _n_threads() > 1
            if self.lockdown is not None and self.lockdown.ruleset is not None:
                os.close(self.lockdown.ruleset)
            self.lockdown = Lockdown.prepare(task not in TASKS, self.limits.folder)
            if warm_up is not None and (found := _difference(outside, self._run_in_fork(task, warm_up))):
                self.refused[task] = f"{task} {found}"
                return {"refused": self.refused[task]}
        elif task in TASKS:
            Lockdown.prepare(for_users=False).apply()
        return True, "ready"

    def grade(self, task: str, arguments: list[Any]) -> Any:
        """Return the fields of a verdict, or what went wrong."""
        if not forks(task, self.limits.sandbox):
            return _run(task, arguments)
        if task in TASKS and TASKS[task].before:
            import_function(TASKS[task].before)(*arguments)
        return self._run_in_fork(task, arguments)

    def _run_in_fork(self, task: str, arguments: list[Any]) -> Any:
        assert self.lockdown is not None
        answers, answer = os.pipe()
        pid = os.fork()
        if not pid:
            _answer_and_exit(task, arguments, answer, (answers, *self.pipes), self.lockdown, self.limits.timeout_s)
        os.close(answer)
        with suppress(OSError):
            os.setpgid(pid, pid)
        try:
            found = _read_answer(answers, self.requests, self.limits.timeout_s)
            if self.has_threads and found == {"failed": "timeout"}:
                found["hint"] = _NO_THREADS
            return found
        finally:
            os.close(answers)
            _kill_group(pid)


def _answer_and_exit(
    task: str, arguments: list[Any], answer: int, pipes: tuple[int, ...], lockdown: Lockdown, timeout_s: float
) -> None:
    """Lock this fork in, write one line to the pipe `answer`, and end."""
    try:
        os.setpgid(0, 0)
        outlive_signals()
        kernel.end_with_parent()
        for pipe in pipes:
            os.close(pipe)
        signal.alarm(0)
        lockdown.apply(timeout_s)
        line = json.dumps(_run(task, arguments, watched=lockdown.for_users)).encode() + b"\n"
        while line:
            line = line[os.write(answer, line) :]
    finally:
        os._exit(0)


def outlive_signals() -> None:
    """Continue when a scheduler signals all processes of a job: the run still needs verdicts for its last batch. Whatever
    happens to the parent, this process ends when its input does.
    """
    for number in _SIGNALS_OF_JOBS:
        signal.signal(
            number, lambda *_: None
        )  # not SIG_IGN, which programs that a user's function starts would inherit


def _heed_signals() -> None:
    """Let a user's function end the processes that it starts."""
    for number in _SIGNALS_OF_JOBS:
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)


def _read_answer(answers: int, requests: int, timeout_s: float) -> Any:
    """Return the first line that a fork writes. End this process if the requests have ended meanwhile."""
    end, found = time.monotonic() + timeout_s, b""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    poll.register(requests, 0)
    while not found.endswith(b"\n"):
        ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
        if requests in ready:  # nobody wants the answer
            raise SystemExit
        if not ready:
            return {"failed": "timeout"}
        part = os.read(answers, 2**16)
        if not part or len(found) > MAX_ANSWER_BYTES:
            return {"failed": "ended"}
        found += part
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        return {"failed": "ended"}


def _kill_group(pid: int) -> None:
    """Kill a fork and all that it started: none of them can leave its process group."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)  # if it had not made its group yet
        os.waitpid(pid, 0)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run(task: str, arguments: list[Any], watched: bool = False) -> Any:
    """Call the task's function, and return the fields of its verdict, or {"refused": why}."""
    function = _load(task)
    if task not in TASKS:
        args, kwargs, right_threshold = arguments
        network = NetworkWatch()
        if watched:
            network.start()
        try:
            verdict = call_user_function(task, function, args, kwargs, right_threshold, explain if watched else None)
            return astuple(network.check(task, verdict))
        except UserError as err:
            return {"refused": str(err)}
    try:
        return function(*arguments)
    except (Exception, RecursionError, MemoryError) as err:  # whatever an algebra system raises, there is no verdict
        return None, f"the comparison failed: {type(err).__name__}"


@cache
def _load(task: str) -> Callable[..., Any]:
    if task not in TASKS:
        return import_function(task)
    module, _, function = TASKS[task].function.partition(":")
    loaded = importlib.import_module(module)
    prepare = getattr(loaded, "prepare", None)
    if prepare is not None:
        prepare()
    return getattr(loaded, function)


def _warm_up(task: str, arguments: list[Any], timeout_s: float) -> Any:
    """Call a user's function outside the sandbox, and return the fields of its verdict; None if it gave none."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return _run(task, arguments)
    except BaseException:
        return None
    finally:
        signal.alarm(0)


def _n_threads() -> int:
    """Return how many threads this process has, also those of libraries in C where that can be found out."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _difference(outside: Any, inside: Any) -> str:
    """Say how a function's verdicts on the gold answer differ outside and inside the sandbox, if both are verdicts. Many
    functions catch what goes wrong inside, and return 0.
    """
    verdicts = [v for v in (outside, inside) if isinstance(v, list | tuple) and v[0] is not None]
    scores = [float(v[0]) if v[4] is None else v[4] for v in verdicts]
    if len(scores) < 2 or math.isclose(*scores, rel_tol=1e-6, abs_tol=1e-6):
        return ""
    return (
        f"scores the gold answer {scores[0]:g} at a first call outside the sandbox, and {scores[1]:g} at a second "
        f"one inside: something that it needs (a program with network, a key, a file, state between calls, "
        f"randomness) {DENIED}"
    )


def _empty(folder: str) -> None:
    if folder:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(path)


def _limit_memory(data_bytes: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # not every system has or allows these limits
        import resource

        # Libraries such as torch map far more addresses than they use, so a user's function is limited in data only.
        if data_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main(timeout_s: str, data_bytes: str, sandbox: str, folder: str) -> None:
    """Serve with these limits, and end with all processes that a user's module started and all files that it wrote."""
    try:
        serve(Limits(float(timeout_s), int(data_bytes), sandbox == "True", folder))
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)  # the process that made it may have been killed
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
