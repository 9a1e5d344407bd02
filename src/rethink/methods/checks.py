"""Checks: critiques in which a policy calls an answer right or wrong, and their reward, agreement with the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rethink.prompts import Prompts, words_of
from rethink.types import Prompt, Sample


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


def reward_check(check: Sample, says: bool | None, mistaken: float = 0.0) -> Sample:
    """Return the check with its reward: 1 if it agrees with the verdict on the answer, `mistaken` if it does not, and 0 if
    it calls the answer neither right nor wrong."""
    if says is None:
        return replace(check, reward=0.0)
    return replace(check, reward=1.0 if says == _is_right(check) else mistaken)


def describe_checks(checks: Sequence[Sample], says: Sequence[bool | None]) -> dict[str, float]:
    """Return shares: of checks that agree with the verdict, of wrong answers called wrong, of right answers called right,
    and of checks that say neither."""
    agree: list[bool] = []
    of_answer: dict[bool, list[bool]] = {True: [], False: []}
    for check, said in zip(checks, says, strict=True):
        agree.append(said == _is_right(check))
        of_answer[_is_right(check)].append(agree[-1])
    return {
        "checks_agree": _share(agree),
        "wrong_called_wrong": _share(of_answer[False]),
        "right_called_right": _share(of_answer[True]),
        "checks_unclear": _share([said is None for said in says]),
    }


def _is_right(check: Sample) -> bool:
    answer = check.prompt.judged_draft
    assert answer is not None, "only graded answers are checked"
    return answer.right is True


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else math.nan
