"""Workers that hang, crash or babble, and a pool that keeps working."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rethink.grading import pool
from rethink.grading.pool import Pool, Worker
from rethink.types import Verdict
from support.grading_workers import MakeWorker, is_running, worker_maker
from support.processes import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")

SPEAK = """
import json, os, sys, time, itertools
def say(*answer): print(json.dumps([number, answer]), flush=True)
asked = itertools.count()
for line in sys.stdin:
    number, task, kind, arguments = json.loads(line)
    if kind == "load": say(True, "ready"); continue
    n, what = next(asked), arguments[0]
"""
"""The worker's side of the protocol; a test says what follows for `what`, the first argument."""


def program(reply: str) -> tuple[str, ...]:
    return (sys.executable, "-c", SPEAK + "".join(f"    {line}\n" for line in reply.splitlines()))


PID = program("if what == 'hang': time.sleep(600)\nif what == 'die': os._exit(1)\nsay(True, str(os.getpid()))")

make = pytest.fixture(worker_maker)


def test_a_hung_worker_is_killed_and_replaced(make: MakeWorker) -> None:
    """Guards against one answer that keeps the pool busy forever (areal-project/AReaL#1426)."""
    worker = make(PID)
    first = int(worker.ask("t", ["pid"]).reason)
    assert os.getpgid(first) != os.getpgid(0)  # else Ctrl-C in a terminal kills it
    worker.timeout_s = 0.2
    assert worker.ask("t", ["hang"]) == Verdict(None, "no verdict within 0.2 s")
    assert not is_running(first)
    worker.timeout_s = 60
    second = int(worker.ask("t", ["pid"]).reason)
    assert is_running(second)
    assert second != first


@pytest.mark.parametrize("kept", [False, True], ids=["raised", "raised after the answer"])
def test_an_interrupted_answer_is_not_the_next_one(
    kept: bool, make: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against Ctrl-C in a comparison: the next answer got the verdict of the interrupted one."""
    worker = make(program("say(what == 'right', what)"))
    get = queue.Queue.get

    def interrupted(lines: queue.Queue[str], timeout: float) -> str:
        if kept:
            get(lines, timeout=timeout)
        raise KeyboardInterrupt

    assert worker.ask("t", ["right"]).right is True
    with monkeypatch.context() as patched:
        patched.setattr(queue.Queue, "get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.ask("t", ["right"])
    assert worker.ask("t", ["wrong"]) == Verdict(False, "wrong")


def test_an_answer_to_another_request_is_refused(make: MakeWorker) -> None:
    """Guards against verdicts that slip by one."""
    assert make(program("number -= 1; say(True, what)")).ask("t", ["x"]).right is None


@pytest.mark.slow
def test_algebra_without_end_is_not_graded_and_the_next_answer_is() -> None:
    """The same with the real worker."""
    with closing(Worker(timeout_s=60)) as worker:
        assert worker.ask("formulas", ["x+x", "2x"]).right is True
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGSTOP)  # no answer takes as long as a process that does not run
        worker.timeout_s = 1
        assert worker.ask("formulas", ["x+y", "y+x"]) == Verdict(None, "no verdict within 1 s")
        worker.timeout_s = 60
        assert worker.ask("formulas", ["x+x", "2x"]).right is True


def test_a_worker_that_does_not_read_blocks_nobody(make: MakeWorker) -> None:
    """Guards against a write of more than the pipe holds, which blocks for as long as nobody reads."""
    deaf = (sys.executable, "-c", "import time; input(); print('[1, [true, \"\"]]', flush=True); time.sleep(600)")
    assert make(deaf, timeout_s=0.5).ask("t", ["x" * 10**6]).right is None


def test_a_worker_that_dies_is_replaced(make: MakeWorker) -> None:
    """Guards against BrokenPipeError out of the next comparison, when the worker dies at an answer or between two."""
    worker = make(PID)
    first = int(worker.ask("t", ["pid"]).reason)
    assert worker.ask("t", ["die"]).right is None
    second = int(worker.ask("t", ["pid"]).reason)
    os.kill(second, signal.SIGKILL)
    assert worker.ask("t", ["pid"]).right in (True, None)  # it may not have ended when it was asked
    third = int(worker.ask("t", ["pid"]).reason)
    assert len({first, second, third}) == 3


BABBLE = {
    "no JSON": "print('nonsense', flush=True)",
    "no verdict": "say('yes', '')",
    "nested": "print('[' * 100_000, flush=True)",
    "no UTF-8": "sys.stdout.buffer.write(bytes([255, 10])); sys.stdout.flush()",
    "half a line": "print('[true', end='', flush=True); os._exit(0)",
}


@pytest.mark.parametrize("reply", BABBLE.values(), ids=BABBLE)
def test_invalid_worker_output_is_not_graded(reply: str, make: MakeWorker) -> None:
    """Guards against a broken grader that counts as a wrong answer, or stops the run."""
    worker = make(program(reply))
    for _ in range(2):
        assert worker.ask("t", ["x"]) == Verdict(None, "the process that compared the answer ended")
        assert worker._process is None


def test_a_worker_that_never_gets_ready_grades_nothing(make: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a start without a limit."""
    monkeypatch.setattr(pool, "START_TIMEOUT_S", 0.5)
    for command in ((sys.executable, "-c", "import time; time.sleep(600)"), ("/nowhere/python",)):
        assert make(command).ask("t", ["x"]).right is None


def test_an_extra_line_is_not_the_next_answer(make: MakeWorker) -> None:
    """Guards against verdicts that slip by one, and stay so."""
    worker = make(program("say(True, what); say(False, 'more') if what == 'a' else None"))
    assert worker.ask("t", ["a"]) == Verdict(True, "a")
    wait_for(lambda: not worker._lines.empty())
    assert worker.ask("t", ["b"]).right is None
    assert worker.ask("t", ["b"]) == Verdict(True, "b")


def test_threads_get_their_own_verdicts_from_a_fixed_number_of_processes() -> None:
    """Guards against threads that get each other's verdicts, a limit that needs the main thread, and a pool that grows."""
    command = program("say(what % 2 == 0, f'{what} {os.getpid()}')")
    with closing(Pool(3, 60, command)) as shared, ThreadPoolExecutor(11) as threads:
        found = list(threads.map(lambda n: shared.ask("t", [n]), range(701)))
    assert [v.right for v in found] == [n % 2 == 0 for n in range(701)]
    assert [int(v.reason.split()[0]) for v in found] == list(range(701))
    assert 1 <= len({v.reason.split()[1] for v in found}) <= 3


def test_a_pool_keeps_its_size_through_crashes() -> None:
    """Guards against workers that are not given back."""
    with closing(Pool(2, 60, PID)) as shared:
        with ThreadPoolExecutor(5) as threads:
            found = list(threads.map(lambda n: shared.ask("t", ["die" if n % 3 else "pid", n]), range(23)))
        assert Counter(v.right for v in found) == {True: 8, None: 15}
        assert shared._free.qsize() == shared.size == 2


def test_verdicts_are_cached_and_failures_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a cached failure, one verdict for two questions, and a cache that grows without end."""
    monkeypatch.setattr(pool, "CACHED_VERDICTS", 5)
    with closing(Pool(1, 60, program("say(None if what == 'fails' else what == 'right', str(n))"))) as shared:
        asked: list[tuple[str, list[object]]] = [("t", ["right"]), ("t", ["wrong"]), ("u", ["right"])]
        asked.append(("t", ["right", 1]))
        assert [shared.ask(*one).reason for one in asked * 2] == ["0", "1", "2", "3"] * 2
        assert [shared.ask("t", ["fails"]).reason for _ in range(2)] == ["4", "5"]
        assert [shared.ask("t", ["right", n]).reason for n in (2, 3)] == ["6", "7"]
        assert len(shared._verdicts) <= 5
        assert shared.ask("t", ["right"]) == Verdict(True, "8")


def test_a_worker_is_replaced_after_many_answers(make: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against caches of a computer algebra system that grow for days."""
    monkeypatch.setattr(pool, "ANSWERS_PER_WORKER", 3)
    worker = make(PID)
    pids = [worker.ask("t", ["pid", n]).reason for n in range(7)]
    assert [len(set(pids[i : i + 3])) for i in (0, 3)] == [1, 1]
    assert len(set(pids)) == 3
    assert not is_running(int(pids[0]))


def test_a_fork_leaves_its_parents_worker_alone(make: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against two processes that read from one pipe. Another process id simulates a fork."""
    worker = make(PID)
    parents = int(worker.ask("t", ["pid"]).reason)
    process = worker._process
    assert process is not None
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        worker.close()
        assert is_running(parents)
        assert int(worker.ask("t", ["pid"]).reason) != parents
        assert is_running(parents)
        worker.close()
    with process:
        process.kill()


def test_closing_leaves_no_process_or_thread() -> None:
    """Guards against zombies and threads that pile up over a long run; a closed pool starts again when it is asked."""
    before = threading.active_count()
    shared = Pool(2, 60, PID)
    for _ in range(3):
        pid = int(shared.ask("t", ["pid", os.urandom(4).hex()]).reason)
        shared.close()
        assert not Path(f"/proc/{pid}").exists()
    wait_for(lambda: threading.active_count() <= before)


def test_a_function_that_always_hangs_is_rarely_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against hours spent on timeouts: after 5 in a row only every 5th call is made, until one answers."""
    monkeypatch.setattr(pool, "CALL_EVERY", 5)
    with closing(Pool(1, timeout_s=0.1, command=PID, data_bytes=1)) as workers:
        reasons = [workers.ask("own:f", ["hang"]).reason for _ in range(12)]
        called = [n for n, reason in enumerate(reasons, start=1) if "no verdict within 0.1 s" in reason]
        assert called == [*range(1, 7), 11]
        assert all("own:f: not called" in reasons[n - 1] for n in range(7, 11))
        answers = [workers.ask("own:f", ["tell"]).right for _ in range(5)]
        assert answers == [None] * 3 + [True, True]
