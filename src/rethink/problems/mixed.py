"""Multiple choice and other questions in one source: the answer of a row with options is a letter, that of others a value.

Both are asked for in a box. A gold answer that is a single capital letter is graded as in `choice`, every other one as in
`mathematics`.
"""

from __future__ import annotations

import re

from rethink.grading.refinement import read_boxes
from rethink.problems import choice, mathematics
from rethink.problems.answer_format import AnswerFormat
from rethink.problems.rows import Columns, Row
from rethink.types import Verdict

SOLVE = (
    "{question}\n\nReason step by step, and put your final answer in \\boxed{}: only the letter if there are options, for "
    "example \\boxed{B}, otherwise the value, for example \\boxed{42}."
)

_LETTER = re.compile(r"[A-Z]")
_FIRST_OPTIONS = re.compile(r"^\(?A[.):].*\n\(?B[.):]", re.MULTILINE)


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return the question and the gold answer, with lettered options if the row has some."""
    names = [name.strip() for name in columns.options.split(",")]
    if any(row.has(name) and row.value(name) != [] for name in names):
        return choice.read_row(row, columns, seed)
    return mathematics.read_row(row, columns, seed)


def verify(reply: str, gold: str) -> Verdict:
    """Grade as the letter of an option or as a value, whichever the gold answer is."""
    return (choice.verify if _LETTER.fullmatch(gold) else mathematics.verify)(reply, gold)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Grade as `verify` does; if there is no box, find the letter or value that the reply states."""
    return (choice.verify_lenient if _LETTER.fullmatch(gold) else mathematics.verify_lenient)(reply, gold)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the letter if the question has options below each other, else the value."""
    letter = choice.extract_answer(reply, lenient) if _FIRST_OPTIONS.search(question) else None
    return letter or mathematics.extract_answer(reply, lenient)


FORMAT = AnswerFormat(
    SOLVE,
    read_row,
    verify,
    verify_lenient,
    mathematics.gold_reply,
    mathematics.parse_gold,
    mathematics.read_gold,
    extract_answer,
    mathematics.equal_answers,
    read_boxes,
)
