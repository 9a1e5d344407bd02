"""Mathematics with a final answer in a box: MATH, GSM8K, AIME and their kind.

Strict: the boxes of the last line that has any; no box is wrong, and so are two different answers in them, or more
different boxes than `extract.MAX_BOXES` in all. Lenient, where there is no box: "the answer is ...", the last formula, or
the last number.
"""

from __future__ import annotations

from dataclasses import replace

from rethink.grading import extract
from rethink.grading.equality import equal
from rethink.grading.pool import grade_in_worker
from rethink.problems.answer_format import AnswerFormat, Columns, Row
from rethink.types import Verdict

SOLVE_BOXED = (
    "{question}\n\nWork through the problem step by step and put your final answer in \\boxed{}, "
    "for example \\boxed{42} or \\boxed{\\frac{3}{4}}."
)
"""Asks for steps and a boxed answer with two small examples, as the solve prompt of ThinkTwice (arXiv 2604.01591) does;
our own words."""

MAX_ANSWER = 500
"""Longer answers are wrong without a look: no gold answer of the usual sets has more than 200 characters."""


def verify(reply: str, gold: str) -> Verdict:
    """Right if the last box equals the gold answer. Not graded if the comparison by algebra fails or takes too long."""
    found = _boxed(extract.after_thinking(reply))
    return found if isinstance(found, Verdict) else compare(found, gold)


def _boxed(text: str) -> str | Verdict:
    """The answer in the boxes of the last line that has any, or why there is none."""
    contents = [content for _, content in extract.boxes(text)]
    if not any(contents):
        return Verdict(False, "no box" if not contents else "an empty box", None)
    if len(set(contents)) > extract.MAX_BOXES:
        return Verdict(False, f"a spray of {len(set(contents))} different boxes", contents[-1][:MAX_ANSWER])
    return ", ".join(_different(extract.last_boxes(text)))


def _different(answers: list[str]) -> list[str]:
    """Without those that repeat an earlier one, as the links of a chain \\boxed{5/2} = \\boxed{2.5} do."""
    found: list[str] = []
    for answer in answers[: extract.MAX_BOXES]:
        if not any(equal(answer, other) for other in found):
            found.append(answer)
    return found


def verify_lenient(reply: str, gold: str) -> Verdict:
    """As `verify`; a reply without a box is graded by what it states as its answer."""
    text = extract.after_thinking(reply)
    boxed = _boxed(text)
    found = _stated(text, boxed)
    if found is not None:
        return replace(compare(found, gold), lenient=True)
    return boxed if isinstance(boxed, Verdict) else compare(boxed, gold)


def _stated(text: str, boxed: str | Verdict) -> str | None:
    """What a text states as its answer, if its boxes hold nothing."""
    nothing = isinstance(boxed, Verdict) and boxed.extracted is None
    return extract.final_answer(text) if nothing else None


def answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """The answer that `verify` or `verify_lenient` compares; None also for a spray of boxes and for what is too long."""
    text = extract.after_thinking(reply)
    boxed = _boxed(text)
    found = _stated(text, boxed) if lenient else None
    if found is None and isinstance(boxed, str):
        found = boxed
    return None if found is None or len(found) > MAX_ANSWER else found


def equal_answers(a: str, b: str) -> bool:
    """Whether either answer is right if the other is the gold answer; not so if the comparison fails or takes too long."""
    return compare(a, b).right is True or compare(b, a).right is True


def compare(answer: str, gold: str) -> Verdict:
    """The verdict on an extracted answer: text and exact numbers first, then algebra in a worker."""
    if len(answer) > MAX_ANSWER:
        return Verdict(False, f"the answer has {len(answer)} characters", f"{answer[:MAX_ANSWER]}...")
    if answer.strip() == gold.strip():
        return Verdict(True, "same text", answer)
    if any(c.isdecimal() and not c.isascii() for c in answer):
        return Verdict(False, "digits that are not ASCII", answer)
    settled = equal(answer, gold)
    if settled is not None:
        return Verdict(settled, "compared as text and numbers", answer)
    verdict = grade_in_worker("symbolic", [answer, gold])
    return Verdict(verdict.right, verdict.reason, answer)


def gold(text: str) -> str:
    """The gold answer in a column: behind `####` (GSM8K), in the last box (MATH's solutions), else all of it."""
    _, marked, behind = text.rpartition("####")
    if marked:
        return behind.strip()
    boxed = extract.boxes(text)
    return boxed[-1][1] if boxed else text.strip()


def read(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Question and gold answer from their columns; a list of one answer is that answer (OlympiadBench)."""
    question, answer = row.text(columns.question), row.value(columns.answer)
    if columns.context and row.has(columns.context):
        question = f"{row.text(columns.context)}\n\n{question}"
    if isinstance(answer, list) and len(answer) == 1:
        return question, gold(str(answer[0]))
    return question, gold(row.text(columns.answer))


def gold_reply(gold: str) -> str:
    """The gold answer in a box."""
    return f"\\boxed{{{gold}}}"


FORMAT = AnswerFormat(SOLVE_BOXED, read, verify, verify_lenient, gold_reply, gold, answer, equal_answers)
