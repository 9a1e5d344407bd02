"""Mathematical replies: strict and lenient verdicts, and replies that try to hang, crash or cheat the grader."""

from __future__ import annotations

import builtins
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.grading.extract import MAX_BOXES
from rethink.problems import mathematics
from rethink.problems.answer_format import Verifier
from rethink.problems.gold import join
from rethink.problems.mathematics import compare, verify, verify_lenient
from rethink.types import Verdict
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)

STRICT = [
    ("\\boxed{5}", "5", True), ("\\boxed{5} = \\boxed{5.0}", "5", True), ("\\boxed{4}\nNo: \\boxed{5}", "5", True),
    ("\\boxed{5}\nNo: \\boxed{4}", "5", False), ("\\boxed{5} or \\boxed{6}", "5", False),
    ("\\boxed{1} and \\boxed{-2}", "-2,1", True), ("\\boxed{\\sqrt{8}} = \\boxed{2\\sqrt{2}}", "\\sqrt{8}", True),
    ("\\boxed{\\sqrt{8}} or \\boxed{3}", "\\sqrt{8}", False), ("\\boxed{5}<!-- \\boxed{6} -->", "5", True),
    ("<!-- \\boxed{5} -->", "5", False), ("\\boxed{5}, written in \\boxed{}", "5", True), ("\boxed{5}", "5", True),
    ("\\\\boxed{\\\\frac{1}{2}}", "1/2", True), ("\\boxed{5, 6}", "5", False),
    ("\\boxed{5 \\text{ or } 6}", "5", False), ("The answer is 5.", "5", False), ("\\boxed{ }", "", False),
    ("<think>\\boxed{5}", "5", False), ("<think>\\boxed{4}</think>\\boxed{5}", "5", True),
    ("\\boxed{4} hm </think>\\boxed{5}", "5", True), ("<think>a</think>\\boxed{5}<think>b</think>", "5", False),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "wanted", "right"), STRICT, ids=lambda value: repr(value)[:30])
def test_strict_verdicts(reply: str, wanted: str, right: bool) -> None:
    """Guards against an answer taken from running text or thoughts, and two answers where one was asked for."""
    assert verify(reply, wanted).right is right
    assert not verify(reply, wanted).lenient


def test_two_boxes_do_not_win_by_two_accepted_answers() -> None:
    """Guards against a policy that boxes both of the answers of which one is accepted."""
    accepted = join(["2", "-2"])
    assert verify("\\boxed{-2}", accepted).right is True
    assert verify("\\boxed{2} or \\boxed{-2}", accepted).right is False
    assert verify("\\boxed{\\sqrt{4}} = \\boxed{2}", accepted).right is True


def test_a_spray_of_boxes_does_not_win() -> None:
    """Guards against a policy that boxes every number: eight different boxes are the most, also on separate lines."""
    lines = [f"\\boxed{{{n}}}" for n in range(MAX_BOXES)]
    assert verify("\n".join(lines), "7").right is True
    assert verify(" ".join(lines), "7").right is False
    spray = verify("\n".join(["\\boxed{-1}", *lines]), "7")
    assert spray.right is False
    assert "9 different boxes" in spray.reason
    assert verify("\n".join(["\\boxed{7}"] * 50), "7").right is True


LENIENT = [
    ("The answer is **73**.", "73", True), ("**Final Answer**\n\n73", "73", True), ("Answer:\n\n$$x=5$$", "5", True),
    ("#### 5", "5", True), ("The answer is 4.\n#### 5", "5", True), ("It results in 4 of the 5.", "5", True),
    ("The answer is 2**10.", "210", False), ("The answer is $\\frac{1}{2}$ km", "1/2", True),
    ("My answer: −7", "-7", True), ("I count 12 apples.", "12", True),
    ("The answer is 5.\nThe answer is 6.", "6", True), ("The answer is not 5", "5", False),
    ("The answer is 5 or 6.", "6", False), ("The answer is 5 or 6.", "5,6", True),
    ("<think>the answer is 5", "5", False), ("The answer is 5</think>", "5", False),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "wanted", "right"), LENIENT, ids=lambda value: repr(value)[:30])
def test_lenient_verdicts_are_marked(reply: str, wanted: str, right: bool) -> None:
    """Guards against bold answers rejected (huggingface/Math-Verify#76), and lenience that picks one of two answers."""
    verdict = verify_lenient(reply, wanted)
    assert verdict.right is right
    assert verdict.lenient is (verdict.extracted is not None)
    assert verify(reply, wanted).right is False


@pytest.mark.parametrize("reply", ["\\boxed{4} so the answer is 5", "The answer is 5: \\boxed{4}"])
def test_lenient_extraction_never_overrules_a_box(reply: str) -> None:
    """Guards against two chances for one reply."""
    verdict = verify_lenient(reply, "5")
    assert (verdict.right, verdict.extracted, verdict.lenient) == (False, "4", False)


@pytest.mark.parametrize("gold", ["2003^{2002^{2001}}", "1+2+\\ldots+n", "\\frac{1}{0}", "5 \\clubsuit 6"])
def test_unreadable_gold_answers_are_not_graded(gold: str) -> None:
    """Guards against "wrong" for every answer to a gold answer that the comparison cannot read."""
    assert compare("5", gold).right is None
    assert compare(gold, gold).right is True


@pytest.mark.parametrize(
    "answer",
    ["2003^{2002^{2001}}", "9^{9^9}", "\\sqrt[9^{9^9}]{2}", "\\sum_{k=1}^{10^{12}} k", "99999!", "5!!!!!!"],
)
def test_a_number_too_high_is_refused_at_once(answer: str) -> None:
    """Guards the worker's time; the same text alone is right."""
    for gold in ("5", "x+1"):
        assert verify(f"\\boxed{{{answer}}}", gold).right is None
    assert compare(answer, answer).right is True
    assert compare("x = 9^{ 9^9 }", "9^{9^{9}}").right is True
    assert compare("9^{9^8}", "9^{9^{9}}").right is None  # different, but only a rule of powers could say so


WRONG = {
    "code": "__import__('os').system('touch {trap}')", "an input": "\\input{{{trap}}}",
    "a write": "\\immediate\\write18{{touch {trap}}}", "nan": "nan", "null byte": "5\0", "surrogate": "5\ud800",
    "the question": "\\text{{What is }} 2 + 3?", "a range": "5 \\pm 1", "an interval": "[5, 5]",
    "a condition": "x \\geq 5", "not": "\\neq 5", "mod": "5 \\pmod{{7}} \\text{{ or }} 6", "a command": "\\frac",
    "zoo": "\\frac{{1}}{{0}}", "minuses": "-" * 399 + "5", "fractions": "\\frac{{1}}{{" * 31 + "5" + "}}" * 31,
    "long": "5" * 501, "long, and right at its end": "0" * 500 + "5",
}  # fmt: skip


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_no_trick_wins_or_runs(answer: str, tmp_path: Path) -> None:
    """Guards against an answer that is run, and against one that is everything at once."""
    trap = tmp_path / "trap"
    verdict = verify(f"\\boxed{{{answer.format(trap=trap)}}}", "5")
    assert verdict.right is False or "cannot be read" in verdict.reason or "too deeply" in verdict.reason, verdict
    assert verdict.right is not True
    assert not trap.exists()


def test_nothing_of_an_answer_is_evaluated_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against sympy's parsers, which eval, in our own process: only workers may import them."""
    really = builtins.__import__

    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("evaluated in the main process")

    def importing(name: str, *rest: object, **named: object) -> object:
        if name.partition(".")[0] in ("sympy", "math_verify", "latex2sympy2_extended", "antlr4"):
            refuse()
        return really(name, *rest, **named)  # type: ignore[arg-type]

    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(builtins, name, refuse)
    monkeypatch.setattr(builtins, "__import__", importing)
    verdicts = [compare(a, b).right for a, b in (("x+x", "2x"), ("x+x", "3x"), ("__import__('os')", "5"))]
    monkeypatch.undo()
    assert verdicts == [True, False, None]


PIECES = (
    r"5 x 9^{ } { \frac{1}{ \sqrt{ \text{ + - = \left( \right) ( ) [ ] , ! \sum_{k=1}^{n} \boxed{ \begin{pmatrix}"
    r" \end{pmatrix} & \\ \pi e^ | < \leq \cup \infty 10 ^ _ ' \def % \pm . $"
)
FRAGMENTS = [*PIECES.split(), "\ud800", "\0", "\u200b", " or "]


@pytest.mark.parametrize("verify_one", [verify, verify_lenient])
@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.booleans())
def test_random_formulas_are_not_right_and_raise_nothing(verify_one: Verifier, content: str, boxed: bool) -> None:
    """Guards against exceptions, and against anything that equals everything. No formula of these parts is 7919 x."""
    verdict = verify_one(f"so \\boxed{{{content}}}" if boxed else f"The answer is {content}", "7919x")
    assert verdict.right in (False, None)
    json.dumps([verdict.reason, verdict.extracted])


@pytest.mark.parametrize(
    "unit", ["\\text{a}", "x=", "(", "{", "<x", "1,", "1,000 ", "=", "'", "\\pm 1", "\\cup(1,2)", "1 or "]
)
def test_long_answers_are_decided(unit: str) -> None:
    """Guards against regular expressions and recursion that grow with the power of the length."""
    text = unit * (mathematics.MAX_ANSWER // len(unit))
    for gold in ("5", "(1,2)", "x=5", "1,2,3", "\\text{even}", text[3:]):
        assert compare(text, gold).right in (False, None)


def test_brackets_deeper_than_the_stack_go_to_a_worker() -> None:
    """Guards against RecursionError where a deep program calls the verifier: a worker has room for 50 brackets."""

    def at_depth(n: int) -> Verdict:
        return compare("(" * 50 + "5" + ")" * 50, "5") if n == 0 else at_depth(n - 1)

    room = sys.getrecursionlimit() - len(inspect.stack(0))
    verdict = at_depth(room - 100)
    assert (verdict.right, verdict.reason) == (True, "compared as formulas")


FLOODS = """
import json, resource, sys
from rethink.grading import extract, stated
from rethink.problems.mathematics import verify, verify_lenient

for unit in json.load(sys.stdin):
    print(repr(unit), flush=True)
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 20, resource.RLIM_INFINITY))
    flood = unit * (300_000 // len(unit))
    for text in (flood, flood + "\\\\boxed{", "\\\\boxed{5}" + flood, flood + "\\\\boxed{5}"):
        verify(text, "5"), verify_lenient(text, "5"), extract.answer_tag(text), stated.final_number(text)
print("done")
"""
WORDS = (
    r"{ } {} \boxed{ \boxed{5}\boxed{ \boxed \ \{ \boxed{1} \frac{1}{ 7 1,000 , . - $ $$ \( \[ $5 answer Answer: ####"
    " <answer> </answer> <answer>5 <think> </think> ** é"
)
SPACED = [
    "\\boxed ",
    " ",
    "\n",
    "\n5",
    "5 ",
    "five ",
    "answer ",
    "the answer is ",
    "answer is\n",
    "result is",
    "#### 5\n",
]
REPEATED = [*WORDS.split(), *SPACED, "* ", "or ", "\u200b", "\0", "\ud800"]


@pytest.mark.slow
def test_repetitive_replies_are_fast() -> None:
    """Guards against quadratic searches, which take minutes here; each unit needs 2 s of 20."""
    run = subprocess.run([sys.executable, "-c", FLOODS], input=json.dumps(REPEATED), capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "done", run.stderr


MEMORY = """
import json, os, random, sys
from concurrent.futures import ThreadPoolExecutor
from rethink.problems import mathematics
from rethink.grading.pool import Pool

def resident(pid):
    return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

def grade(n):
    draw = random.Random(n)
    content = "".join(draw.choices(fragments, k=draw.randint(1, 12)))
    return mathematics.verify("\\\\boxed{" + content + "}" + " " * 12_500, "7919x")

fragments, pool = json.load(sys.stdin), Pool(2, timeout_s=5)
mathematics.grade_in_worker = pool.ask
sizes = []
with ThreadPoolExecutor(2) as threads:
    for start in (0, 400, 4000):
        assert not any(v.right for v in threads.map(grade, range(start // 10, start)))
        sizes.append([resident(pid) for pid in (os.getpid(), *(w._process.pid for w in pool._workers if w._process))])
print(json.dumps(sizes[1:]))
pool.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory in /proc")
def test_memory_stays_bounded_over_thousands_of_replies() -> None:
    """Guards against leaks here and in the workers: 3,600 leaked replies would cost 45 MiB, 10 MiB are normal."""
    command = [sys.executable, "-c", MEMORY]
    run = subprocess.run(command, input=json.dumps(FRAGMENTS), capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr
    (before, *_), (after, *workers) = json.loads(run.stdout)
    assert after - before < 35
    assert max(workers) < 400
