"""An answer format: how an answer is asked for, read from a row, found in a reply, graded and compared."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from rethink.problems.rows import Columns, Row
from rethink.types import Problem, Verdict

Verifier = Callable[[str, str], Verdict]
"""(reply, gold) -> verdict. When grading fails, it raises or returns "not graded", never "wrong"."""


class Extractor(Protocol):
    """Return the answer in a reply, the one that the verifier grades, or None if there is none.

    It does not know the gold answer and checks nothing. Some formats need the question to tell what is an answer.
    """

    def __call__(self, reply: str, lenient: bool, question: str = "") -> str | None: ...


@dataclass(frozen=True)
class AnswerFormat:
    """How problems are asked and their replies graded. "boxed", "calls" and so on in recipes name an answer format.

    `solve`: the instruction, with {question} in it.
    `read_row`: question and gold answer of a row; its integer is a seed for the order of options.
    `verify`: grades with strict extraction, as training needs it.
    `verify_lenient`: also finds answers where strict extraction finds none, and marks these verdicts as lenient.
    `gold_reply`: writes a gold answer as a reply, to check the verifier; raises ValueError if that is impossible.
    `parse_gold`: takes the gold answer out of a text that may hold more, such as a whole solution.

    Votes need two more; a user-defined verifier has no `extract_answer`:

    `extract_answer`: the answer in a reply, written the same way for equal answers where that is cheap.
    `equal_answers`: whether two extracted answers are equal.
    """

    solve: str
    read_row: Callable[[Row, Columns, int], tuple[str, str]]
    verify: Verifier
    verify_lenient: Verifier
    gold_reply: Callable[[str], str]
    parse_gold: Callable[[str], str] = str
    extract_answer: Extractor | None = None
    equal_answers: Callable[[str, str], bool] = operator.eq

    def problem(self, ident: str, question: str, gold: str, suite: str, extraction: str) -> Problem:
        """Return a problem in this format. `extraction` is "strict" or "lenient"."""
        lenient = extraction == "lenient"
        verify = self.verify_lenient if lenient else self.verify
        problem = Problem(ident, question, gold, verify, solve=self.solve, suite=suite)
        if self.extract_answer is None:
            return problem
        extract = partial(self.extract_answer, lenient=lenient, question=question)
        return replace(problem, extract_answer=extract, equal_answers=self.equal_answers)


def read_question_and_answer(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return the texts of the two columns, unchanged."""
    return row.text(columns.question), row.text(columns.answer)
