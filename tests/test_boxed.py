"""Boxed answers: what counts as the answer, when two answers are the same, and a comparison that cannot hang."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from rethink.problems import symbolic
from rethink.problems.boxed import gold, last_box, number, verify
from rethink.problems.symbolic import Worker

TOWER = "2003^{2002^{2001}}"

EXTRACTED = {
    "so \\boxed{42}.": "42",
    "\\boxed{1} then \\boxed{2}": "2",
    "\\boxed{\\frac{1}{2}}": "\\frac{1}{2}",
    "\\boxed {7}": "7",
    "\\boxed{ 7 }": "7",
    "\\boxed{1} and \\boxed{2": "1",
    "\\boxed{x \\boxed{3}": "3",
    "\\boxed{a \\boxed{b} c}": "b",
    "\\boxed{5} }}} {": "5",
    "{ { \\boxed{5}": "5",
    "\\fbox{\\boxed{5}}": "5",
    "\\boxed{\\{1, 2\\}}": "\\{1, 2\\}",
    "\\boxed{\\left\\{ 1 \\right.}": "\\left\\{ 1 \\right.",
    "\\\\boxed{5}": "5",
    "$$\\boxed{\n5\n}$$": "5",
    "\\boxed{}": "",
    "\\boxed{5": None,
    "\\boxed 5": None,
    "\\boxed": None,
    "boxed{5}": None,
    "the answer is 5": None,
    "": None,
}

RIGHT = [
    ("0.5", "\\frac{1}{2}"),
    ("0.5", "\\dfrac{1}{2}"),
    (".5", "1/2"),
    ("-\\frac{1}{2}", "-0.5"),
    ("3", "3.0"),
    ("3.", "3"),
    ("1e-5", "10^{-5}"),
    ("10^{-5}", "0.00001"),
    ("4.5\\times10^{3}", "4500"),
    ("1,234,567", "1234567"),
    ("1{,}234", "1234"),
    ("10\\,000", "10,\\!000"),
    ("10 000", "10000"),
    ("\\$5", "5"),
    ("$\\frac{3}{4}$", "0.75"),
    ("90^\\circ", "90"),
    ("\\left( 1, 2 \\right)", "(1,2)"),
    ("1 \\frac{1}{2}", "\\frac{3}{2}"),
    ("2\\frac{1}{3}", "7/3"),
    ("(x+1)^2", "x^2+2x+1"),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("x=3", "3"),
    ("\\text{Evelyn}", "\\text{Evelyn}"),
]

WRONG = [
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("3", "4"),
    ("0.333", "1/3"),
    ("1/0", "0"),
    ("1\\frac{1}{2}", "\\frac{11}{2}"),
    ("1\\frac{1}{2}", "11/2"),
    ("\\frac{1}{2}3", "1/23"),
    ("1 2", "12"),
    ("1  2", "12"),
    ("1\\ 2", "12"),
    ("1, 234", "1234"),
    ("12,34", "1234"),
    ("3, 4", "3"),
    ("3, 4", "4"),
    ("3 \\text{ or } 4", "3"),
    ("3;4", "4"),
    ("٣", "3"),
    ("\uff13", "3"),
    ("²", "2"),
    ("", "3"),
    ("A", "B"),
    ("\\text{even}", "\\text{odd}"),
    ("n=2,3,4", "n=1,2,3"),
    ("5" * 501, "5" * 501),
]


@pytest.fixture(scope="module", autouse=True)
def _end_the_worker() -> Iterator[None]:
    yield
    symbolic._worker.close()


@pytest.mark.parametrize(("reply", "content"), EXTRACTED.items(), ids=lambda text: repr(text)[:30])
def test_the_last_balanced_box_counts(reply: str, content: str | None) -> None:
    """Guards against regular expressions that stop at the first brace, and against lenient guesses without a box."""
    assert last_box(reply) == content


@given(st.text(alphabet="{}5 ", max_size=30), st.text(alphabet="{}5 ", max_size=30))
def test_what_stands_around_a_box_does_not_change_it(before: str, after: str) -> None:
    """Guards against stray braces that open or close a box which is whole in itself."""
    assert last_box(f"{before}\\boxed{{a{{b}}c}}{after}") == "a{b}c"


@pytest.mark.parametrize(
    "flood", ["\\boxed{" * 150_000, "\\boxed{5}\\boxed{" * 60_000, "{" * 10**6, "\\boxed" + " " * 10**6]
)
def test_a_megabyte_of_boxes_takes_a_moment(flood: str) -> None:
    """The search once restarted at every unclosed box: 150,000 of them took minutes. Now it is one pass."""
    start = time.process_time()
    assert last_box(flood) in (None, "5")
    assert time.process_time() - start < 3


@pytest.mark.parametrize(("answer", "wanted"), RIGHT)
def test_equal_answers(answer: str, wanted: str) -> None:
    """Guards against right answers judged wrong for how they are written, in either direction."""
    assert verify(f"\\boxed{{{answer}}}", wanted).right is True
    assert verify(f"\\boxed{{{wanted}}}", answer).right is True


@pytest.mark.parametrize(("answer", "wanted"), WRONG, ids=lambda text: text[:20])
def test_different_answers(answer: str, wanted: str) -> None:
    """Guards against wrong answers judged right. Mixed numbers once lost their space: 1 1/2 was 11/2, and 1 2 was 12."""
    assert verify(f"\\boxed{{{answer}}}", wanted).right is False


def test_no_box_is_wrong() -> None:
    """Guards against an answer that is fished out of running text."""
    verdict = verify("The answer is 5.", "5")
    assert (verdict.right, verdict.reason) == (False, "no box")


def test_gold_is_the_last_box_of_a_solution_or_the_text() -> None:
    """Guards against whole solutions as gold answers."""
    assert gold("We get \\boxed{3}, hence \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert gold(" 42 ") == "42"


@pytest.mark.parametrize("text", ["1_000", "٣", "0x10", "1e9999", "nan", "inf", "--1", "1/", "/2", "1/0", "1" * 41, ""])
def test_these_are_not_numbers(text: str) -> None:
    """Guards against Python's own liberal reading of numbers, and against huge ones."""
    assert number(text) is None


def test_a_power_tower_is_not_judged_and_the_next_answer_is() -> None:
    """Guards against one hostile answer that keeps the pool busy for ever (areal-project/AReaL#1426)."""
    worker = Worker(limit_s=60)
    try:
        assert worker.compare("2", "2").right is True
        worker.limit_s = 0.5
        start = time.perf_counter()
        verdict = worker.compare(TOWER, "5")
        assert verdict.right is None
        assert "0.5 s" in verdict.reason
        assert time.perf_counter() - start < 30
        worker.limit_s = 60
        assert worker.compare("x+x", "2x").right is True
    finally:
        worker.close()


def test_a_killed_worker_is_replaced() -> None:
    """A worker killed between two answers (for memory, say) once raised BrokenPipeError out of the next comparison."""
    worker = Worker()
    try:
        assert worker.compare("x+x", "2x").right is True
        killed = process_of(worker)
        os.kill(killed, signal.SIGKILL)
        assert worker.compare("x+x", "3x").right in (False, None)
        assert worker.compare("x+x", "2x").right is True
        assert process_of(worker) != killed
    finally:
        worker.close()


def test_ctrl_c_in_a_terminal_does_not_reach_the_worker() -> None:
    """Ctrl-C goes to the whole foreground group: it once killed the worker, and the answer under way was not judged."""
    worker = Worker()
    try:
        worker.compare("x+x", "2x")
        assert os.getpgid(process_of(worker)) != os.getpgid(0)
    finally:
        worker.close()


def process_of(worker: Worker) -> int:
    assert worker._process is not None
    return worker._process.pid


def test_two_threads_take_turns() -> None:
    """Guards against answers that get each other's verdicts, and against a limit that needs the main thread (SIGALRM)."""
    found: dict[int, list[bool | None]] = {0: [], 1: []}

    def ask(parity: int) -> None:
        for i in range(20):
            found[parity].append(symbolic.compare(f"x + {i}", f"{i + parity} + x").right)

    threads = [threading.Thread(target=ask, args=(parity,)) for parity in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {0: [True] * 20, 1: [False] * 20}


BROKEN = {
    "hangs before it is ready": "import time; time.sleep(60)",
    "hangs at an answer": "import time; print('ready', flush=True); time.sleep(60)",
    "ends at once": "raise SystemExit(1)",
    "ends at an answer": "print('ready', flush=True); input()",
    "talks nonsense": "print('ready'); input(); print('nonsense', flush=True); input()",
}


@pytest.mark.parametrize("program", BROKEN.values(), ids=BROKEN)
def test_a_broken_worker_judges_nothing_and_blocks_nothing(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a broken grader that counts as a wrong answer, or stops the run."""
    monkeypatch.setattr(symbolic, "START_LIMIT_S", 0.5)
    worker = Worker(limit_s=0.5, command=(sys.executable, "-c", program))
    for _ in range(2):
        start = time.perf_counter()
        verdict = worker.compare("1", "2")
        assert verdict.right is None
        assert "symbolic comparison" in verdict.reason
        assert time.perf_counter() - start < 30
        assert worker._process is None


def test_nothing_of_an_answer_is_evaluated_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against sympy's parsers, which eval, in our own process or without a sandbox of LaTeX in the worker's."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("evaluated in the main process")

    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(builtins, name, refuse)
    trap = tmp_path / "trap"
    answers = (f"__import__('pathlib').Path('{trap}').touch()", f"\\text{{open('{trap}', 'w')}}")
    verdicts = [verify(f"\\boxed{{{answer}}}", "5").right for answer in answers]
    monkeypatch.undo()
    assert verdicts == [False, False]
    assert not trap.exists()


def test_agreement_with_another_grader_on_real_replies(shared_data: Path) -> None:
    """Guards against a verifier of our own invention: on 100 replies of Qwen3-4B, 20 per benchmark, it agrees with the
    grader of the ThinkTwice release (strings and sympy) on at least 97."""
    rows = parquet.read_table(shared_data / "traces" / "qwen3-4b.parquet").to_pylist()
    by_benchmark: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_benchmark.setdefault(row["benchmark"], []).append(row)
    chosen = [row for found in by_benchmark.values() for row in found[:: len(found) // 20][:20]]
    assert len(chosen) == 100
    agree = [verify(row["response"], gold(row["ground_truth"])).right is (float(row["score"]) == 1) for row in chosen]
    assert sum(agree) >= 97
