"""What is trained on is not tested on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.problems import countdown, equation, mathematics
from rethink.problems.source import load_problems, refuse_overlap
from rethink.settings import ProblemSource
from rethink.types import Problem


def asked(question: str, number: int) -> Problem:
    return Problem(f"file/{number}", question, "1", mathematics.verify)


def test_overlap_of_texts_ignores_blanks() -> None:
    """Guards against a leak that differs in line breaks only; ids play no part."""
    training = [asked("What is\n 1 + 1?", 1), asked("b", 2)]
    refuse_overlap(training, [asked("c", 1), asked("What is 1 + 2?", 2)])
    with pytest.raises(UserError, match="1 held-out problems are also training problems, for example file/9"):
        refuse_overlap(training, [asked("c", 1), asked(" What  is 1 + 1?", 9)])


@pytest.mark.parametrize("form", ["countdown", "strict", "lenient"])
def test_overlap_of_countdown_ignores_the_order_of_numbers(form: str) -> None:
    """Guards against a leak by another order of the same numbers, in either form; verifiers may differ in extraction."""

    def problem(numbers: str, target: int) -> Problem:
        if form == "countdown":
            text = f"{numbers} -> {target}"
            return Problem(text, text, text, countdown.verify)
        gold = json.dumps({"numbers": [int(n) for n in numbers.split()], "target": target})
        return Problem(
            gold, gold, gold, equation.verify if form == "strict" or target == 28 else equation.verify_lenient
        )

    training = [problem("3 7 5", 26), problem("3 7 5", 28)]
    refuse_overlap(training, [problem("3 7 5", 27), problem("3 7 7", 26), problem("3 3 7 5", 26)])
    for target in (26, 28):
        with pytest.raises(UserError, match="1 held-out problems are also training problems"):
            refuse_overlap(training, [problem("5 3 7", target), problem("9 9 9", target)])


def test_overlap_of_real_splits(real_data: Path) -> None:
    """Guards against a check that sees nothing, or too much: GSM8K's splits are disjoint; 13 problems of the countdown
    test file are in its train file with their numbers in another order (counted from the files' own columns)."""
    train, test = (load_problems(ProblemSource("gsm8k", str(real_data)), purpose=p) for p in ("train", "test"))
    refuse_overlap(train, test)
    with pytest.raises(UserError, match="1 held-out problems"):
        refuse_overlap(train, [*test, train[7000]])
    train, test = (
        load_problems(ProblemSource("countdown-tasks", str(real_data)), purpose=p) for p in ("train", "test")
    )
    with pytest.raises(
        UserError, match="13 held-out problems are also training problems, for example countdown-tasks/82"
    ):
        refuse_overlap(train, test)
