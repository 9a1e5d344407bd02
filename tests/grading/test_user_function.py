"""Functions of users: what they may return, how they are called, and workers that hang, crash or leave processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.grading.sandbox.kernel import has_seccomp, landlock_version
from rethink.grading.user_function import find_function
from rethink.problems.rewards import probe
from rethink.types import Problem, Verdict
from support.grading_workers import is_running
from support.processes import wait_for

OWN = """
import os, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from rethink.types import Verdict

def returns(reply, gold):
    import numpy as np, sympy, torch
    from decimal import Decimal
    from fractions import Fraction
    return eval(reply)

def throw(err): raise err

def always_hangs(reply, gold): time.sleep(600)
def dies(reply, gold): os._exit(3)
def crashes(reply, gold): os.kill(os.getpid(), 11)
def eats(reply, gold): return len(bytearray(2**33)) > 0
def pid(reply, gold): return Verdict(True, str(os.getpid()))
def stays(reply, gold): return Verdict(True, str(os.getpid()))
stays.in_process = True

def spawns(reply, gold):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(gold, "w").write(str(child.pid))
    time.sleep(600)

def asks_a_judge(reply, gold):
    try: return float(socket.create_connection(("127.0.0.1", 9)) is not None)
    except OSError: return 0.0

def writes(reply, gold): open(gold, "w")
def reads_a_key(reply, gold): return os.environ["OWN_API_KEY"] == gold
def is_free(reply, gold): return os.environ["OWN_API_KEY"] == gold
is_free.sandbox = False

calls = []
def counts(reply, gold):
    calls.append(reply)
    return Verdict(True, ",".join(calls))

def reads_and_prints(reply, gold):
    print("[true, 1]")
    return sys.stdin.read() == ""

def other_names(response, solution): return response == solution
def by_place(reply, gold, /): return reply == gold
def only_names(*, gold, reply): return reply == gold
def anything(*args, **kwargs): return args == ("a", "a") and not kwargs
def swapped(ground_truth, response): return (response, ground_truth) == ("a", "a")
def short_names(y_true, y_pred): return y_true == y_pred[:1] == "a"
def target_first(target, prediction): return (prediction, target) == ("a", "a")
def verl(solution_str, ground_truth, extra_info=None): return {"score": solution_str == ground_truth, "pred": "x"}

async def waits(reply, gold): return True
def of_trl(prompts, completions, **kwargs): return [1.0 for _ in completions]
def of_verl(data_source, solution_str, ground_truth, extra_info=None): return 1.0
def of_verl_batch(data_sources, solution_strs, ground_truths, extra_infos): return [1.0]
async def waits_late(): return True
def returns_a_coroutine(reply, gold): return waits_late()
seen = set()
def only_new(reply, gold):
    new = reply not in seen
    seen.add(reply)
    return new and reply == gold
def caches(reply, gold):
    try: open(__file__ + ".cache", "w").close()
    except OSError: return 0.0
    return reply == gold
pool = ThreadPoolExecutor(1)
def waits_for_a_thread(reply, gold): return pool.submit(str.__eq__, reply, gold).result()
def yields(reply, gold): yield True

class Silent(Exception):
    def __str__(self): raise ValueError

class Loud(BaseException): pass
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "a_script.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own", None)  # another test file's
    yield
    sys.modules.pop("own", None)


IN_PROCESS = pytest.mark.parametrize("in_process", [pytest.param(False, marks=pytest.mark.slow, id="worker"), True])

ACCEPTED = {
    "True": Verdict(True), "1.0": Verdict(True), "0": Verdict(False),
    "0.7": Verdict(False, "0.7, right from 1 on", score=0.7),
    "Verdict(0.7)": Verdict(False, "0.7, right from 1 on", score=0.7),
    "Verdict(False, score=0.25)": Verdict(False, score=0.25), "Verdict(True, None)": Verdict(True),
    "Verdict(None)": Verdict(None, "the function gave no verdict"),
    "Verdict(False, b'\\xff bytes')": Verdict(False, "\ufffd bytes"),
    "Verdict(False, 'half \\ud800', '\\ud800')": Verdict(False, "half ?", "?"),
    "np.bool_(True)": Verdict(True), "np.array(0.25)": Verdict(False, "0.25, right from 1 on", score=0.25),
    "torch.tensor(0.5)": Verdict(False, "0.5, right from 1 on", score=0.5),
    "1 / 0": Verdict(None, "own:returns failed: ZeroDivisionError: division by zero"),
    "exit(1)": Verdict(None, "own:returns failed: SystemExit: 1"),
    "np.array([1.0])": Verdict(True), "torch.ones(1, 1)": Verdict(True), "np.int64(0)": Verdict(False),
    "sympy.true": Verdict(True), "sympy.Integer(0)": Verdict(False),
    "Fraction(1, 4)": Verdict(False, "0.25, right from 1 on", score=0.25),
    "Decimal('0.25')": Verdict(False, "0.25, right from 1 on", score=0.25),
    "(True, 'why')": Verdict(True, "why"), "(None, 'why')": Verdict(None, "why"), "(0, None)": Verdict(False),
    "(0.5, b'half')": Verdict(False, "half", score=0.5),
    "{'score': 1.0, 'other': [1]}": Verdict(True),
    "{'score': 0.0, 'acc': False, 'pred': '7'}": Verdict(False, "", "7", False, 0.0),
    "{'score': 0.5, 'acc': True}": Verdict(True, "", score=0.5),
    "{'score': np.float32(0.5)}": Verdict(False, "0.5, right from 1 on", score=0.5),
    "Verdict(False, 'a' * 1001)": Verdict(False, "a" * 1000 + " [... 1001 characters]"),
    "Verdict(False, 'a' + chr(27) + '[2J')": Verdict(False, "a\\x1b[2J"),
    "throw(Silent())": Verdict(None, "own:returns failed: Silent: (Silent, which cannot be shown: ValueError)"),
    "throw(Loud('a'))": Verdict(None, "own:returns failed: Loud: a"),
}  # fmt: skip

REFUSED = {
    "'yes'": "returned 'yes' (str)", "float('nan')": "returned nan (float), which is not between 0 and 1",
    "np.ones(2)": "(ndarray)", "2": "returned 2 (int), which", "None": "returned None (does it end without a return?)",
    "-1.0": "(give a penalty as a positive number, and its term a negative weight)", "10**400": "which is not between",
    "[1.0]": "returned [1.0] (list) (it gets one reply, not a list of replies: return one value)", "float('inf')": "inf",
    "(True, False, 'x')": "(tuple)", "('x', 1)": "(tuple)", "{'reward': 1.0}": 'without a "score"', "1j": "(complex)",
    "{'score': -1.0, 'acc': False}": "returned -1.0 (float)", "{'score': None}": "returned", "Decimal('nan')": "NaN",
    "returns_a_coroutine(0, 0)": "it is async", "yields(0, 0)": "it yields: use return", "np.array(['a'])": "(ndarray)",
    "{'score': float('nan')}": "returned nan (float)", "'True'": "returned 'True' (str)",
    "torch.tensor(float('nan'))": "which is not between 0 and 1", "Verdict(float('nan'))": "returned nan (float)",
    "Verdict(True, score=7)": "returned 7 (int)",
}  # fmt: skip


@IN_PROCESS
def test_accepted_returns(in_process: bool) -> None:
    """Guards against scores that are lost, and texts that no file can hold."""
    function = find_function("own:returns", timeout_s=60, in_process=in_process)
    assert {code: function(code, "") for code in ACCEPTED} == ACCEPTED


@IN_PROCESS
def test_refused_returns(in_process: bool) -> None:
    """Guards against a text that counts as right, and NaN as a reward."""
    function = find_function("own:returns", timeout_s=60, in_process=in_process)
    for code, message in REFUSED.items():
        with pytest.raises(UserError, match=r"^own:returns returned .* or a rethink.Verdict$") as refused:
            function(code, "")
        assert message in str(refused.value)


def test_right_threshold() -> None:
    """Guards against a threshold that is not used, or that changes the score."""
    function = find_function("own:returns", in_process=True, right_threshold=0.7)
    found = [function(code, "") for code in ("0.7", "np.float32(0.5)")]
    assert [(v.right, v.score) for v in found] == [(True, 0.7), (False, 0.5)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "timeout_s", "reason"),
    [
        ("always_hangs", 0.5, "own:always_hangs: no verdict within 0.5 s"),
        ("dies", 60, "own:dies: its process ended"),
        ("crashes", 60, "own:crashes: its process ended"),
        ("eats", 60, "own:eats failed: MemoryError"),
    ],
)
def test_a_function_that_hangs_or_crashes_grades_nothing(function: str, timeout_s: float, reason: str) -> None:
    """Guards against a run that waits forever or ends with a user's function, and against a reward of 0."""
    verify = find_function(f"own:{function}", timeout_s=timeout_s, memory_gib=1.0)
    for reply in "ab":
        verdict = verify(reply, "0")
        assert verdict.right is None
        assert reason in verdict.reason


@pytest.mark.slow
def test_functions_run_in_a_worker_unless_they_ask_for_this_process() -> None:
    """Guards against the wrong process, and a function that reads the worker's requests or prints into its answers."""

    def pid_of(name: str, **settings: Any) -> str:
        return find_function(name, timeout_s=60, **settings)("a", "0").reason

    assert pid_of("own:pid") != str(os.getpid())
    assert pid_of("own:pid", in_process=True) == pid_of("own:stays") == str(os.getpid())
    verify = find_function("own:reads_and_prints", timeout_s=60)
    assert [verify(reply, "0").right for reply in "abc"] == [True] * 3


@pytest.mark.slow
@pytest.mark.skipif(not has_seccomp(), reason="needs seccomp")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "asks_a_judge",
            "own:asks_a_judge asked for the network, which was denied by the sandbox; set it=off to allow it",
        ),
        ("writes", "(this was denied by the sandbox); set it=off to allow it"),
        ("reads_a_key", "'OWN_API_KEY' (an environment variable; reading it was denied by the sandbox); set it=off to"),
    ],
)
def test_what_the_sandbox_denies_is_said(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a judge that cannot be reached and calls everything wrong, and reasons that do not help."""
    monkeypatch.setenv("OWN_API_KEY", str(tmp_path / "key"))
    verify = find_function(f"own:{name}", timeout_s=60, sandbox_off="it=off")
    verdict = verify("a", str(tmp_path / "key"))
    assert verdict.right is None
    assert reason in verdict.reason
    with pytest.raises(UserError, match="denied by the sandbox"):
        probe(verify, Problem("p", "?", str(tmp_path / "key"), verify))
    assert find_function("own:is_free", timeout_s=60)("a", str(tmp_path / "key")).right is True


@pytest.mark.slow
@pytest.mark.skipif(not landlock_version(), reason="needs Landlock")
@pytest.mark.parametrize("name", ["only_new", "caches"])
def test_a_function_that_scores_differently_in_the_sandbox_is_refused(name: str) -> None:
    """Guards against functions that catch what the sandbox denies, and so call right replies wrong."""
    verify = find_function(f"own:{name}", timeout_s=62, sandbox_off="it=off")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"gold answer 1 at a first .* and 0 at a second .*; set it=off to allow it"
        ):
            verify("gold", "gold")


@pytest.mark.slow
def test_threads_of_the_first_call_are_named_as_a_reason() -> None:
    """Guards against a function that hangs in the sandbox for a reason that nobody can guess."""
    verdict = find_function("own:waits_for_a_thread", timeout_s=1)("a", "a")
    assert verdict.right is None
    assert "no verdict within 1 s; threads from its import or first call" in verdict.reason


@pytest.mark.slow
def test_replies_share_no_state_but_the_first_call() -> None:
    """Guards against a reply that changes later verdicts; the first call, with the gold answer, loads what is needed."""
    counts = find_function("own:counts", timeout_s=61)
    for reply in ("a", "b", "a"):
        assert counts(reply, "gold").reason == f"gold,{reply}"


@pytest.mark.slow
def test_processes_that_a_function_starts_end_with_its_worker(tmp_path: Path) -> None:
    """Guards against processes that a killed worker leaves running."""
    assert find_function("own:spawns", timeout_s=3, sandbox=False)("a", str(tmp_path / "pid")).right is None
    child = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(child), timeout_s=20)


@pytest.mark.parametrize(
    "name", ["other_names", "by_place", "only_names", "anything", "swapped", "target_first", "short_names", "verl"]
)
def test_arguments_are_passed_by_name_else_by_position(name: str) -> None:
    """Guards against a gold answer that is passed as the reply, whatever the names of the parameters."""
    function = find_function(f"own:{name}", ("reply", "gold", "question"), in_process=True)
    assert (function("a", "a").right, function("a", "b").right) == (True, False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:f", "nowhere:f cannot be imported: ModuleNotFoundError"),
        ("own:missing", "own:missing cannot be imported: AttributeError"),
        (":f", "cannot be imported"),
        ("a_script:reward", "a_script:reward cannot be imported: SystemExit: 0"),
        ("json:__name__", "json:__name__ is not a function"),
        ("own:waits", r"own:waits is async; .* that returns asyncio\.run\(waits\(reply, gold\)\)"),
        ("own:of_trl", r"TRL's parameters, .* that returns of_trl\(\[reply\], answer=\[gold\]\)\[0\]"),
        ("own:of_verl_batch", r"that returns of_verl_batch\(\['my_data'\], \[reply\], \[gold\], \[\{\}\]\)\[0\]"),
        ("own:of_verl", r"verl's parameters; .* that returns of_verl\('my_data', reply, gold\)"),
    ],
)
def test_find_function_refuses(name: str, message: str) -> None:
    """Guards against tracebacks, and a script whose import ends the command silently."""
    with pytest.raises(UserError, match=message):
        find_function(name)
