"""The worker's side: tasks that eat memory, print or raise, and a worker whose parent ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import rethink
from rethink.grading.pool import Worker
from rethink.types import Verdict
from support.grading_workers import MakeWorker, is_running, worker_maker
from support.processes import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")

make = pytest.fixture(worker_maker)

TASK = """
import os, sys
def task(what, n=0):
    if what == "eat": return len(bytearray(n)) > 0, "eaten"
    if what == "count": return sum(range(10**15)) > 0, ""
    if what == "print": print("[false, 1]", flush=True); os.write(1, b"[false, 2]\\n")
    if what == "deep": return task("deep")
    if what == "raise": raise KeyError("x")
    return True, str(os.getpid())
"""


@pytest.fixture
def real(tmp_path: Path) -> tuple[str, ...]:
    """The real worker with a task of ours."""
    (tmp_path / "tasks.py").write_text(TASK)
    lines = [
        f"import sys; sys.path[:0] = {[str(tmp_path), str(Path(rethink.__file__).parents[1])]}",
        "from rethink.grading import worker",
        "worker.TASKS['t'], worker.GRACE_S = worker.Task('tasks:task'), 0",
        "worker.serve(worker.Limits(1))",
    ]
    return (sys.executable, "-c", "\n".join(lines))


def test_a_task_that_eats_memory_is_not_graded(real: tuple[str, ...], make: MakeWorker) -> None:
    """Guards the machine: 3 GiB is all that a worker gets, and having asked for more does not end it."""
    worker = make(real)
    pid = worker.ask("t", ["pid"]).reason
    assert worker.ask("t", ["eat", 2**20]).right is True
    assert worker.ask("t", ["eat", 2**32]) == Verdict(None, "the comparison failed: MemoryError")
    assert worker.ask("t", ["pid"]).reason == pid


def test_what_a_task_prints_or_raises_does_no_harm(real: tuple[str, ...], make: MakeWorker) -> None:
    """Guards against libraries that print, and against exceptions of any kind."""
    worker = make(real)
    pid = worker.ask("t", ["pid"])
    assert worker.ask("t", ["print"]) == pid
    assert worker.ask("t", ["deep"]) == Verdict(None, "the comparison failed: RecursionError")
    assert worker.ask("t", ["raise"]) == Verdict(None, "the comparison failed: KeyError")
    assert worker.ask("t", ["pid"]) == pid


PARENT = """
import json, os, signal, sys, threading
from rethink.grading.pool import Pool
pool = Pool(1, timeout_s=600, command=tuple(json.loads(sys.argv[1])))
print(pool.ask("t", ["pid"]).reason, flush=True)
if sys.argv[2] == "busy": threading.Thread(target=pool.ask, args=("t", ["count"]), daemon=True).start()
if sys.argv[2] == "ends": sys.exit()
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ends", "is killed", "busy"])
def test_no_worker_outlives_its_parent(how: str, real: tuple[str, ...]) -> None:
    """Guards against processes that remain when the interpreter ends or is killed, also while a worker computes."""
    command = [sys.executable, "-c", PARENT, json.dumps(real), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if how == "busy":
            wait_for(lambda: cpu_ticks(pid) > 20 or not is_running(pid))
        if how != "ends":
            parent.kill()
        parent.wait()
    wait_for(lambda: not is_running(pid))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_to_all_processes_of_a_job_ends_no_worker(
    number: signal.Signals, real: tuple[str, ...], make: MakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the last batch of a run that a scheduler asks to stop. What a function starts can still be ended."""
    worker = make(real)
    pid = worker.ask("t", ["pid"]).reason
    os.kill(int(pid), number)
    assert worker.ask("t", ["pid"]).reason == pid
    (tmp_path / "ender.py").write_text(ENDER.format(number=int(number)))
    monkeypatch.syspath_prepend(str(tmp_path))
    with closing(Worker(20, data_bytes=2**32)) as for_users:
        assert for_users.ask("ender:ends", [["", ""], {}, 1.0]) == Verdict(True)


ENDER = """
import multiprocessing, os, subprocess, time

def wait(ready):
    os.write(ready, b"1")
    time.sleep(60)

def ends(reply, gold):
    os.kill(os.getpid(), {number})  # as a scheduler does
    started, ready = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=wait, args=(ready,))
    child.start()
    os.read(started, 1)
    program = subprocess.Popen(["sleep", "60"])
    for pid in (child.pid, program.pid):
        os.kill(pid, {number})
    child.join()
    return (child.exitcode, program.wait()) == (-{number}, -{number})
"""


@pytest.mark.slow
def test_a_killed_parent_leaves_no_folder(tmp_path: Path) -> None:
    """Guards the disk: a run that was killed cannot remove the folder that its worker writes to."""
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "file").write_text("x")
    code = f"from rethink.grading.worker import main; main('1', '1000000000', 'True', {str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert not folder.exists()


@pytest.mark.slow
def test_files_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a sympy.py of the folder that one stands in, also where it is on the path."""
    for name in ("sympy", "mpmath", "json", "reasoning_gym"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(Worker(60)) as worker:
        assert worker.ask("formulas", ["x+x", "2x"]).right is True
    assert not (tmp_path / "mark").exists()


def cpu_ticks(pid: int) -> int:
    """What the process has computed so far, in hundredths of a second."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    except (FileNotFoundError, ProcessLookupError):
        return 0
