"""Checks: what they call an answer, and their reward."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rethink.methods.checks import ask_to_check, describe_checks, read_check, reward_checks
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.types import Message, Sample
from support.method_runs import NOT_GRADED, R, W, graded_group, graded_sample

TEXTS = Prompts("{question}", critique="check", satisfied="The answer is correct")
THINKING = replace(TEXTS, thinking=("<think>", "</think>"))


def check_of(right: bool | None, text: str = "") -> Sample:
    """A check of an answer with this verdict."""
    answer = graded_sample(0, right)
    return FakePolicy(lambda prompt, index, version: text).transcribe(
        TEXTS.follow_up(answer, "critique", "check"), text
    )


CHECKS = {
    "Step 1 holds. **The answer is correct.**": True,
    "the answer  is CORRECT": True,
    "Step 2 is off: 3 * 7 = 21.\nThe answer is wrong.": False,
    "The answer is wrong ... no, it holds. The answer is correct.": True,
    "The answer is correct, or so it seems; in fact, the answer is wrong.": False,
    "The answer is correct? Let me see.": None,
    "The answer is wrongly rounded.": None,
    "The answer is 7.": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), CHECKS.items())
def test_what_a_check_says(text: str, expected: bool | None) -> None:
    """Guards against words inside others, and verdicts that are only weighed on the way."""
    assert read_check(TEXTS, check_of(R, text), "The answer is wrong!") is expected
    without_words = read_check(TEXTS, check_of(R, text), "")
    assert without_words is bool(expected), "without such words, every check that is not satisfied calls it wrong"


def test_thinking_does_not_count() -> None:
    """Guards against a verdict that is only in the check's thinking, or in one that never ends."""
    for text, expected in {
        "<think>The answer is correct</think>The answer is wrong": False,
        "<think>The answer is wrong</think>The answer is correct": True,
        "<think>The answer is wrong": None,
    }.items():
        assert read_check(THINKING, check_of(R, text), "the answer is wrong") is expected


def test_the_tiny_model_names_broken_lines() -> None:
    """Guards against a reader that needs the verdict at the end: "wrong row 2" calls an answer wrong."""
    texts = Prompts("{question}", critique="check", satisfied="right")
    for text, expected in {"right": True, "wrong row 2 col 3": False, "row 2": None, "upright": None}.items():
        assert read_check(texts, check_of(R, text), "wrong") is expected


SAYS = {True: "The answer is correct.", False: "The answer is wrong.", None: "Hm."}
WRONG = "the answer is wrong"


@pytest.mark.parametrize(
    ("right", "says", "mistaken", "reward"),
    [
        (R, True, 0.0, 1.0),
        (R, False, 0.0, 0.0),
        (W, True, 0.25, 0.25),
        (W, False, 0.25, 1.0),
        (R, None, 0.25, 0.0),
        (W, None, 0.25, 0.0),
    ],
)
def test_a_check_is_rewarded_for_agreement(right: bool, says: bool | None, mistaken: float, reward: float) -> None:
    """Guards against a reward for calling everything right, and for saying nothing about a wrong answer."""
    check = check_of(right, SAYS[says])
    (found,) = reward_checks(TEXTS, (check,), WRONG, mistaken)
    assert found == replace(check, reward=reward)
    assert found.verdict is None, "a check is no answer: it has no verdict"


def test_only_graded_answers_are_checked() -> None:
    """Guards against rewards that nothing is known about."""
    group = graded_group(R, NOT_GRADED, W)
    asks = ask_to_check(TEXTS, group)
    assert [ask.draft for ask in asks] == [group[0], group[2]]
    assert {ask.phase for ask in asks} == {"critique"}
    assert asks[0].messages == (Message("user", "?"), Message("assistant", "5 7"), Message("user", "check"))


def test_shares() -> None:
    """Guards against a share over all checks where those of right or of wrong answers are meant."""
    found = [(R, True), (R, True), (R, False), (W, False), (W, None)]
    checks = tuple(check_of(right, SAYS[says]) for right, says in found)
    assert describe_checks(TEXTS, [checks[:2], (), checks[2:]], WRONG) == {
        "checks_agree": 3 / 5,
        "right_called_right": 2 / 3,
        "wrong_called_wrong": 1 / 2,
        "checks_unclear": 1 / 5,
    }
    assert all(math.isnan(value) for value in describe_checks(TEXTS, [()], WRONG).values())
    assert math.isnan(describe_checks(TEXTS, [checks[:1]], WRONG)["wrong_called_wrong"])
