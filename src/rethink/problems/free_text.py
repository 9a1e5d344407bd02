"""Questions of which no form of the answer is known: nothing is asked for but a reply, and nothing can be graded."""

from __future__ import annotations

from rethink.grading import extract, stated
from rethink.grading.refinement import read_boxes
from rethink.problems.answer_format import AnswerFormat, read_question_and_answer
from rethink.problems.mathematics import equal_answers
from rethink.types import Verdict

MAX_WORDS = 3
"""A longer text after "the answer is" is a sentence, not an answer."""


def short_answer(reply: str) -> str | None:
    """Return the answer that a reply states in a few words: its last boxes, or what follows "the answer is"; None if it
    states none.

    >>> short_answer("So the answer is 42."), short_answer("Because air scatters blue light.")
    ('42', None)
    """
    text = extract.readable(reply)
    boxes = dict.fromkeys(extract.last_boxes(text))
    if boxes:
        return ", ".join(boxes)
    said = stated.stated_answer(text)
    if said is None:
        return None
    found = (stated.last_formula(said) or said).strip(" .$")
    return found if found and len(found.split()) <= MAX_WORDS else None


def same_reply(first: str, second: str) -> bool:
    """Return whether two replies state equal short answers; without such answers, whether their texts are equal."""
    answer, other = short_answer(first), short_answer(second)
    if answer is None or other is None:
        return first.strip() == second.strip()
    return answer == other or equal_answers(answer, other)


def _no_verdict(reply: str, gold: str) -> Verdict:
    return Verdict(None, "no form of the answer is known")


FORMAT = AnswerFormat(
    "{question}", read_question_and_answer, _no_verdict, _no_verdict, gold_reply=str, read_refinement=read_boxes
)
