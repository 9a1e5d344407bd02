"""Checks: critiques in which a policy calls an answer right or wrong, and their reward, agreement with the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethink.methods.metrics import mean
from rethink.prompts import Prompts, words_of
from rethink.types import Group, Prompt, Sample


def ask_to_check(prompts: Prompts, answers: Sequence[Sample]) -> list[Prompt]:
    """Return one prompt per graded answer: its conversation, the answer, and the request for a critique."""
    graded = [answer for answer in answers if answer.right is not None and answer.reward is not None]
    return [prompts.follow_up(answer, "critique", prompts.critique) for answer in graded]


def read_check(prompts: Prompts, check: Sample, wrong: str) -> bool | None:
    """Return what a check calls the answer before it: right (True), wrong (False), or neither (None).

    "Right" is a check that ends with `prompts.satisfied`, as for the strategy self-refine; "wrong" is any other check that
    contains the words of `wrong`. If there are none, that is every other check."""
    if prompts.is_satisfied(check.text):
        return True
    words = f" {words_of(prompts.shorten(check.text))} "
    return False if not words_of(wrong) or f" {words_of(wrong)} " in words else None


def reward_checks(prompts: Prompts, checks: Group, wrong: str, mistaken: float = 0.0) -> Group:
    """Return checks with rewards: 1 for one that agrees with the verdict on its answer, `mistaken` for one that does not,
    and 0 for one that calls its answer neither right nor wrong."""
    rewarded = []
    for check in checks:
        says = read_check(prompts, check, wrong)
        if says is None:
            reward = 0.0
        elif says == _is_right(check):
            reward = 1.0
        else:
            reward = mistaken
        rewarded.append(replace(check, reward=reward))
    return tuple(rewarded)


def describe_checks(prompts: Prompts, groups: Sequence[Group], wrong: str) -> dict[str, float]:
    """Return shares: of checks that agree with the verdict, of wrong answers called wrong, of right answers called right,
    and of checks that say neither."""
    agree: list[bool] = []
    unclear: list[bool] = []
    agree_on_right: list[bool] = []
    agree_on_wrong: list[bool] = []
    for group in groups:
        for check in group:
            says = read_check(prompts, check, wrong)
            agrees = says == _is_right(check)
            unclear.append(says is None)
            agree.append(agrees)
            if _is_right(check):
                agree_on_right.append(agrees)
            else:
                agree_on_wrong.append(agrees)
    return {
        "checks_agree": mean(agree),
        "wrong_called_wrong": mean(agree_on_wrong),
        "right_called_right": mean(agree_on_right),
        "checks_unclear": mean(unclear),
    }


def _is_right(check: Sample) -> bool:
    answer = check.prompt.judged_draft
    assert answer is not None, "only graded answers are checked"
    return answer.right is True
