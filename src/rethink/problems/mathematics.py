"""Mathematics with a final answer in a box: MATH, GSM8K, AIME and similar suites.

Strict extraction reads the boxes of the last line that has any. A reply without a box is wrong, and so is one with two
different answers in these boxes, or with more than `extract.MAX_BOXES` different boxes in all. Lenient extraction, if there
is no box, takes what the reply states (`grading.stated`): "the answer is ...", the last formula, or the last number.
"""

from __future__ import annotations

from dataclasses import replace

from rethink.errors import UserError
from rethink.grading import extract, stated
from rethink.grading.damage import broken_command, damage
from rethink.grading.formulas.judge import EQUAL_NUMBERS, quick
from rethink.grading.pool import grade_in_worker
from rethink.grading.refinement import read_boxes
from rethink.problems.answer_format import AnswerFormat
from rethink.problems.gold import DamageError, gold_texts, join, several
from rethink.problems.rows import Columns, Row
from rethink.types import Verdict

SOLVE_BOXED = (
    "{question}\n\nWork through the problem step by step and put your final answer in \\boxed{}, "
    "for example \\boxed{42} or \\boxed{\\frac{3}{4}}."
)
"""Asks for steps and a boxed answer, with two small examples, as ThinkTwice's solve prompt does (arXiv 2604.01591). The
words are ours."""

MAX_ANSWER = 500
"""Characters. Longer answers are wrong without being compared; no gold answer of the usual sets has more than 200."""


def verify(reply: str, gold: str) -> Verdict:
    """Return right if the last box equals the gold answer, and not graded if the comparison fails or takes too long."""
    found = _boxed(extract.readable(reply))
    return found if isinstance(found, Verdict) else _compare_boxes(found, gold)


def _boxed(text: str) -> list[str] | Verdict:
    """Return the different answers in the boxes of the last line that has any, or the verdict that there is none."""
    found = extract.find_boxes(text)
    contents = [box.content for box in found]
    if not any(contents):
        return Verdict(False, "no box" if not contents else "an empty box", None)
    answers = list(dict.fromkeys(extract.on_last_line(text, found)))
    n_different = len(set(filter(None, contents)))
    if n_different > extract.MAX_BOXES:
        return Verdict(False, f"{n_different} different boxes are too many", answers[-1][:MAX_ANSWER])
    if len(answers) > 1 and max(map(len, answers)) > MAX_ANSWER:
        return Verdict(False, "several boxes, and one is too long", f"{answers[-1][:MAX_ANSWER]}...")
    return answers


def _compare_boxes(answers: list[str], gold: str) -> Verdict:
    """Return the verdict on the boxes of one line: one answer, several ways to write it, or a list of answers."""
    listed = compare(_join(answers), gold)
    if len(answers) == 1 or listed.right:
        return listed
    for one in several(gold):  # all of them the same one: two accepted answers are two answers
        if all(_compare(answer, one).right for answer in answers):
            return Verdict(True, f"{len(answers)} boxes with equal answers", ", ".join(answers))
    return listed


def _join(answers: list[str]) -> str:
    r"""Return several answers as a list, without those that repeat an earlier number, as in \boxed{5/2} = \boxed{2.5}."""
    found: list[str] = []
    for answer in answers:
        if not any(quick(answer, other) == (True, EQUAL_NUMBERS) for other in found):
            found.append(answer)
    return ", ".join(found)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Grade as `verify` does; if there is no box, grade the answer that the reply states."""
    text = extract.readable(reply)
    boxed = _boxed(text)
    if not isinstance(boxed, Verdict):
        return _compare_boxes(boxed, gold)
    found = _stated_answer(text, boxed)
    return boxed if found is None else replace(compare(found, gold), lenient=True)


def _stated_answer(text: str, boxed: Verdict) -> str | None:
    """Return the answer that a text states without a box; None if its boxes hold some."""
    return stated.final_answer(text) if boxed.extracted is None else None


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the answer that the verifiers compare; None if there is none, too many boxes, or too long an answer."""
    text = extract.readable(reply)
    boxed = _boxed(text)
    if not isinstance(boxed, Verdict):
        found: str | None = _join(boxed)
    else:
        found = _stated_answer(text, boxed) if lenient else None
    return None if found is None or len(found) > MAX_ANSWER else found


def equal_answers(a: str, b: str) -> bool:
    """Return whether either answer is right when the other is the gold answer; False if the comparison fails."""
    return _compare(a, b).right is True or _compare(b, a).right is True


def compare(answer: str, gold: str) -> Verdict:
    """Return the verdict on an extracted answer. With several accepted answers (`gold.several`), one of them is enough."""
    accepted = several(gold)
    found: list[Verdict] = []
    for one in accepted:
        verdict = _compare(answer, one)
        if verdict.right:
            return verdict
        found.append(verdict)
    return next((verdict for verdict in found if verdict.right is None), found[0])


def _compare(answer: str, gold: str) -> Verdict:
    """Compare equal texts and plain numbers here, and all else in a worker."""
    if len(gold) > MAX_ANSWER:
        return Verdict(None, f"the gold answer has {len(gold)} characters", answer[:MAX_ANSWER])
    if len(answer) > MAX_ANSWER:
        return Verdict(False, f"the answer has {len(answer)} characters", f"{answer[:MAX_ANSWER]}...")
    settled = quick(answer, gold)
    if settled is not None:
        return Verdict(*settled, answer)
    verdict = grade_in_worker("formulas", [answer, gold])
    return Verdict(verdict.right, verdict.reason, answer)


def parse_gold(text: str) -> str:
    """Return the gold answer in a column's text: what follows `####` (GSM8K), else the last box (MATH), else all of it.

    A JSON list of texts holds several accepted answers. Raise ValueError if one is empty, DamageError if one is damaged.
    """
    found: list[str] = []
    for item in several(text):
        answer = _final_answer(item)
        fault = _damage(item, answer)
        if fault:
            raise DamageError(f"has {fault}")
        if not answer:
            raise ValueError("is empty")
        found.append(answer)
    return join(found)


def _final_answer(text: str) -> str:
    _, mark, after = text.rpartition("####")
    if mark:
        return after.strip()
    boxed = extract.boxes(extract.readable(text))
    return boxed[-1][1] if boxed else extract.undouble(text.strip()).rstrip("\\ ")


def _damage(text: str, answer: str) -> str:
    """Return what is damaged in a gold answer or the text around it; "" if nothing is."""
    return broken_command(text) or damage(text if answer == text.strip() else answer)


def read_gold(row: Row, names: str) -> str:
    """Return the gold answer of a row, or a JSON list of the accepted ones. Raise UserError if it is empty or damaged."""
    accepted: list[str] = []
    for text in gold_texts(row, names):
        answer = _final_answer(text)
        fault = _damage(text, answer)
        if fault:
            raise UserError(f"{row.location}: the column {names!r} has {fault}")
        if not answer:
            raise UserError(f"{row.location}: no gold answer in the column {names!r}: {text[-80:]!r}")
        accepted.append(answer)
    return join(accepted)


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return question and gold answer."""
    return row.text(columns.question), read_gold(row, columns.answer)


def gold_reply(gold: str) -> str:
    """Return the gold answer, or the first of several, in a box."""
    return f"\\boxed{{{several(gold)[0]}}}"


FORMAT = AnswerFormat(
    SOLVE_BOXED,
    read_row,
    verify,
    verify_lenient,
    gold_reply,
    parse_gold,
    read_gold,
    extract_answer,
    equal_answers,
    read_boxes,
)
