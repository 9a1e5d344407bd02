"""The second checker on tables of answers that were graded by hand, and on boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from answer_audit.__main__ import main
from answer_audit.audit import check, last_box
from support.answer_pairs import AUDIT_DIFFERENT, AUDIT_EQUAL, DIFFERENT, EQUAL

UNDECIDED = {
    (r"2003^{2002^{2001}}", "5"): "too large", ("1e999999999", "5"): "too large",
    (r"\binom{10^9}{5}", "5"): "too large", ("9" * 1_000_000, "5"): "too long",
    ("(" * 100 + "5" + ")" * 100, "5"): "nested too deeply", ("1," * 100 + "1", "1," * 100 + "2"): "too many",
    (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"): r"cannot read the answer: cannot read \sum",
    ("t(0,4]", "(0,4]"): "a group inside an expression", ("(1,2", "(1,2)"): "the end closes",
    ("209_8", "137"): "base 8", ("٣", "3"): "no such sign", (r"\infty - \infty", r"\frac{0}{0}"): "undefined",
    (r"\pm 1 \pm 2", "3"): "several ±", (r"5 \text{ m}", r"5 \text{ cm}"): "units differ",
    ("(1 + 1,500)", "1501"): "what the comma", (r"x > 1 \text{ and } x < 2", "(1,2)"): "several inequalities",
    ("0.333...", r"\frac13"): "dots", ("1/2x", r"\frac{1}{2x}"): "a/bc", (r"\log 100", "2"): "base of the logarithm",
    (r"\cos(n \pi)", "(-1)^n"): "whole numbers alone", ("y = 5", "x = 5"): "names differ",
    ("0", "5x - 7y + 11z + 4 = 0"): "is an equation", (r"C_2 e^t + C_1", r"C_1 e^t + C_2"): "constants of integration",
}  # fmt: skip


@pytest.mark.parametrize(("pairs", "right"), [(AUDIT_EQUAL, True), (AUDIT_DIFFERENT, False)])
def test_verdicts_on_graded_pairs(pairs: list[tuple[str, str]], right: bool) -> None:
    """Guards against any pair of the tables that gets another verdict."""
    found = {pair: check(f"So $\\boxed{{{pair[0]}}}$.", pair[1])[0] for pair in pairs}
    assert {pair: verdict for pair, verdict in found.items() if verdict is not right} == {}


UNLIKE_THE_GRADER = r"""10 percent, 5 square meters, The answer is (1,2), \frac{d}{dx} x^2, 1 2, 123,456, 5, 5, 5=6,
x<5, 1<x<2, \text{(C) or (D)}, \angle ABC, 5\text{ cents}, 5\text{ or more}, |x|, \ln|x|, \lfloor x \rfloor"""


def test_verdicts_on_the_graders_tables() -> None:
    """Guards against verdicts that contradict the grader's tables, except the known ones."""
    other: list[str] = []
    n_undecided = 0
    for right, table in ((True, EQUAL), (False, DIFFERENT)):
        for answer, gold in table:
            verdict = check(f"\\boxed{{{answer}}}", gold)[0]
            n_undecided += verdict is None
            if verdict is (not right):
                other.append(answer)
    assert ", ".join(other) == UNLIKE_THE_GRADER.replace("\n", " ")
    assert n_undecided == 30


@pytest.mark.parametrize(("answer", "gold", "reason"), [(*pair, why) for pair, why in UNDECIDED.items()])
def test_undecided_answers_have_a_reason(answer: str, gold: str, reason: str) -> None:
    verdict, why = check(f"So $\\boxed{{{answer}}}$.", gold)
    assert verdict is None
    assert reason in why


BOXES = {
    r"in \boxed, as asked": None, r"\boxed{5": None, r"\boxed{1} or \boxed{2}": "2",
    r"{{ \boxed{\frac{1}{2}} }}}": r"\frac{1}{2}", r"\boxed{\left\{1\right.}": r"\left\{1\right.",
    r"\boxed{a \\{b}}": r"a \\{b}", r"\boxed{x = \boxed{5}}": "5", r"\boxed{30^\circ}, that is, \boxed{": r"30^\circ",
    r"\boxed{" * 100_000: None, "\\" * 1_000_000: None, r"\boxed {5}": "5", r"\fbox{5}": "5",
}  # fmt: skip


@pytest.mark.parametrize(("reply", "answer"), BOXES.items(), ids=[reply[:30] for reply in BOXES])
def test_the_last_box_that_is_closed_holds_the_answer(reply: str, answer: str | None) -> None:
    assert last_box(reply) == answer
    if answer is None:
        assert check(reply, "5") == (False, "no box")


def test_the_same_unreadable_text_is_right() -> None:
    assert check(r"\boxed{  }", "5") == (False, "empty box")
    assert check(r"\boxed{\sum_{k=1}^n k}", r"\sum_{k=1}^{n} k")[0] is None
    assert check(r"\boxed{\sum_{k=1} ^n k}", r"\sum_{k=1}^n k")[0] is True


def test_the_command_lists_disagreements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against rows that are lost or counted for the wrong checker, and a listing without both reasons."""
    replies = [("5", "5"), ("5", "6"), ("C_1 e^t + C_2", "C_2 e^t + C_1")]
    rows = [{"gold": gold, "reply": f"\\boxed{{{answer}}}"} for gold, answer in replies]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert main([str(file), "--answer", "gold", "--response", "reply"]) == 0
    assert capsys.readouterr().out.split("\n") == [
        "     1 rows: right, second checker right",
        "     1 rows: wrong, second checker not graded",
        "     1 rows: wrong, second checker wrong",
        "",
    ]
    monkeypatch.setattr("answer_audit.__main__.check", lambda reply, gold: (False, "a reason"))
    main([str(file), "--answer", "gold", "--response", "reply"])
    assert "row 0: right (same text), second checker wrong (a reason)" in capsys.readouterr().out
    assert main([str(file), "--answer", "gold"]) == 2
    assert "no column 'response'" in capsys.readouterr().err
