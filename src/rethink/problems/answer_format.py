"""An answer format: how an answer is asked for, read from a row, found in a reply, graded and compared."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from rethink.errors import UserError
from rethink.grading.damage import broken_command
from rethink.grading.user_function import UserFunction
from rethink.images import mark_places
from rethink.problems.conversation import split_conversation
from rethink.problems.gold import GoldError
from rethink.problems.rows import Columns, MissingColumnError, Row
from rethink.problems.tables import as_json
from rethink.thinking import after_thinking
from rethink.types import Problem, Verdict

QUESTION_NAMES = (
    "question",
    "problem",
    "prompt",
    "messages",
    "conversations",
    "query",
    "instruction",
    "input",
    "Question",
)
ANSWER_NAMES = (
    "answer",
    "reward_model.ground_truth",
    "ground_truth",
    "final_answer",
    "solution",
    "gold",
    "target",
    "label",
)
"""What data sets call these columns, for hints."""

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
    `parse_gold`: takes the gold answer out of a text that may hold more, such as a whole solution; raises ValueError, with
    the end of a sentence ("must be ..."), for a text that the verifier cannot read.
    `read_gold`: the gold answer in a column of a row, if it need not be a single text.

    Votes need two more; a user-defined verifier has no `extract_answer`:

    `extract_answer`: the answer in a reply, written the same way for equal answers where that is cheap.
    `equal_answers`: whether two extracted answers are equal.

    `read_refinement`: the texts to grade in place of a refinement, if earlier answers that it quotes could be taken for its
    own; see `Problem`.
    """

    solve: str
    read_row: Callable[[Row, Columns, int], tuple[str, str]]
    verify: Verifier
    verify_lenient: Verifier
    gold_reply: Callable[[str], str]
    parse_gold: Callable[[str], str] = str
    read_gold: Callable[[Row, str], str] | None = None
    extract_answer: Extractor | None = None
    equal_answers: Callable[[str, str], bool] = operator.eq
    read_refinement: Callable[[str], list[str]] | None = None

    def gold_in(self, row: Row, names: str) -> str:
        """Return the gold answer in a column of a row. Raise UserError if there is none, or the verifier cannot read it."""
        if self.read_gold is not None:
            return self.read_gold(row, names)
        text = row.text(names)
        try:
            return self.parse_gold(text)
        except ValueError as err:
            raise GoldError(f"{row.location}: the column {names!r} {err}") from err

    def texts_to_grade(self, reply: str, is_refinement: bool, thinking: Sequence[str] = ()) -> list[str]:
        """Return the reply, or the texts to grade in its place if it is a refinement; see `Problem.read_refinement`."""
        read = self.read_refinement if is_refinement else None
        return [reply] if read is None else read(after_thinking(reply, thinking))

    def problem(self, ident: str, question: str, gold: str, suite: str, extraction: str) -> Problem:
        """Return a problem in this format. `extraction` is "strict" or "lenient"."""
        lenient = extraction == "lenient"
        verify = self.verify_lenient if lenient else self.verify
        problem = Problem(
            ident, question, gold, verify, solve=self.solve, suite=suite, read_refinement=self.read_refinement
        )
        if self.extract_answer is None:
            return problem
        extract = partial(self.extract_answer, lenient=lenient, question=question)
        return replace(problem, extract_answer=extract, equal_answers=self.equal_answers)


@dataclass(frozen=True)
class AfterThinking:
    """A verifier of replies whose thinking has other marks than those of the common model families."""

    verify: Verifier
    thinking: tuple[str, ...]

    def __call__(self, reply: str, gold: str) -> Verdict:
        """Return the verdict on the text after the thinking."""
        return self.verify(after_thinking(reply, self.thinking), gold)


def read_after(problems: Sequence[Problem], thinking: Sequence[str]) -> list[Problem]:
    """Return the problems with verifiers that also know these marks; user-defined verifiers get the whole reply."""
    if not thinking:
        return list(problems)
    found: list[Problem] = []
    for problem in problems:
        extract, read = problem.extract_answer, problem.read_refinement
        if extract is not None:
            extract = partial(_extract_after, extract, tuple(thinking))
        if read is not None:
            read = partial(_read_after, read, tuple(thinking))
        verify = after_marks(problem.verify, thinking)
        found.append(replace(problem, verify=verify, extract_answer=extract, read_refinement=read))
    return found


def after_marks(verify: Verifier, thinking: Sequence[str]) -> Verifier:
    """Return the verifier, reading only what comes after thinking with these marks, unless it is user-defined."""
    return AfterThinking(verify, tuple(thinking)) if thinking and not isinstance(verify, UserFunction) else verify


def _read_after(read: Callable[[str], list[str]], thinking: tuple[str, ...], reply: str) -> list[str]:
    return read(after_thinking(reply, thinking))


def _extract_after(extract: Callable[[str], str | None], thinking: tuple[str, ...], reply: str) -> str | None:
    return extract(after_thinking(reply, thinking))


def read_problem(
    answer_format: AnswerFormat, row: Row, columns: Columns, seed: int, ident: str, suite: str, extraction: str
) -> Problem:
    """Return the problem of a row: every command that asks rows reads them here.

    A conversation is split into the question and the turns before it. Raise UserError for a row that cannot be asked or
    graded as it is meant: damaged text, a damaged image, an answer that is none.
    """
    earlier, asked = split_conversation(row, columns.question, columns.images)
    names, filled = columns, row
    if asked.content:  # another column, because the conversation may also hold the gold answer
        names = replace(columns, question=f"last question of {columns.question.partition('|')[0]}")
        filled = replace(row, values={**row.values, names.question: asked.content})
    try:
        question, gold = answer_format.read_row(filled, names, seed)
    except MissingColumnError as err:
        raise with_hint(err, row, columns) from err
    if columns.context and row.has(columns.context):
        question = f"{row.text(columns.context)}\n\n{question}"
    refuse_broken_commands(question, row, columns.question)
    if asked.images:
        question = mark_places(question, len(asked.images), row.location)
    problem = answer_format.problem(ident, question, gold, suite, extraction)
    problem = replace(problem, earlier=earlier, images=asked.images, row=as_json(row.values))
    if isinstance(problem.verify, UserFunction):
        return replace(problem, verify=problem.verify.with_arguments(row=problem.row))
    return problem


def refuse_broken_commands(question: str, row: Row, names: str) -> None:
    """Raise UserError for a question that surely holds LaTeX commands that lost their backslash."""
    fault = broken_command(question)
    if fault:
        raise UserError(f"{row.location}: the column {names!r} has {fault}")


def with_hint(err: MissingColumnError, row: Row, columns: Columns) -> UserError:
    """Return the error with the column that is probably meant, and how to name it."""
    roles = {columns.question: ("question", QUESTION_NAMES), columns.answer: ("answer", ANSWER_NAMES)}
    role, usual = roles.get(err.names, ("", ()))
    likely = [name for name in usual if row.has(name) and name not in (columns.question, columns.answer)]
    if not likely:
        return err
    return UserError(f"{err}; is it {likely[0]!r}? Then set {role}={likely[0]} (problems.{role}, or the option for it)")


def read_question_and_answer(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return the texts of the two columns, unchanged."""
    return row.text(columns.question), row.text(columns.answer)
