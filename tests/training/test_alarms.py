"""Alarms of an update, in words."""

from __future__ import annotations

import pytest

from rethink.objectives import Objective, Update
from rethink.training.alarms import find_alarms
from rethink.types import Group, Verdict
from support.samples import make_sample

RIGHT, WRONG, FAILED = Verdict(True), Verdict(False), Verdict(None, "own:check failed: KeyError: 'x'")
UNREADABLE = Verdict(None, "the answer cannot be read: an unknown sign")
BAD_GOLD = Verdict(None, "the gold answer cannot be read: \\foo")
TRAINED = {"lr": 1e-6, "grad_norm": 0.5}


def group(*verdicts: Verdict, stop: str = "stop") -> Group:
    return tuple(make_sample((5, 1), verdict=verdict, stop=stop) for verdict in verdicts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("groups", "numbers", "alarm"),
    [
        ([group(RIGHT, WRONG)], TRAINED, ""),
        ([group(RIGHT, WRONG)], {"lr": 0.0, "grad_norm": 0.5}, "nothing was trained: the learning rate is 0"),
        ([group(RIGHT, WRONG)], {"lr": 1e-6, "grad_norm": 0.0}, "nothing was trained: the gradient is 0"),
        ([(), (), ()], {"lr": 1e-6}, "nothing was trained: all 3 prompts were too long (sampler.max_prompt_tokens)"),
        ([], {"lr": 1e-6}, "nothing was trained: the update has no samples"),
        (
            [group(WRONG, WRONG), group(WRONG, WRONG, WRONG)],
            {"lr": 1e-6},
            "nothing was trained: the replies to a prompt have equal rewards in every group (all are 0)",
        ),
        (
            [group(WRONG, WRONG), group(RIGHT, RIGHT)],
            {"lr": 1e-6, "grad_norm": 0.0},
            "nothing was trained: the replies to a prompt have equal rewards in every group "
            "(they differ between groups only)",
        ),
        (
            [group(WRONG, WRONG, stop="length")],
            {"lr": 1e-6},
            "nothing was trained: 2 of 2 replies were cut at max_tokens; the replies to a prompt have equal rewards in "
            "every group (all are 0)",
        ),
        (
            [group(FAILED, FAILED), group(FAILED)],
            {"lr": 1e-6},
            "nothing was trained: none of the 3 replies was graded (first reason: own:check failed: KeyError: 'x')",
        ),
        (
            [group(FAILED, WRONG), group(RIGHT)],
            {"lr": 1e-6},
            "nothing was trained: the replies to a prompt have equal rewards in every group (they differ between groups "
            "only); 1 of 3 replies were not graded (first reason: own:check failed: KeyError: 'x')",
        ),
        (
            [group(FAILED, *[WRONG, RIGHT] * 5)],
            TRAINED,
            "replies were not graded: 1 of 11 (first reason: own:check failed: KeyError: 'x')",
        ),
        (
            [group(FAILED, UNREADABLE, UNREADABLE, WRONG, RIGHT)],
            TRAINED,
            "over 10% of the replies were not graded: 3 of 5 (2 the answer cannot be read, 1 error; first reason: "
            "own:check failed: KeyError: 'x'). Such replies are not trained on, so the policy may learn to write them "
            "instead of wrong ones: read some in samples.jsonl",
        ),
        (
            [group(BAD_GOLD, BAD_GOLD, WRONG, RIGHT)],
            TRAINED,
            "replies were not graded: 2 of 4 (first reason: the gold answer cannot be read: \\foo)",
        ),
    ],
)
def test_an_update_says_why_it_trained_nothing(groups: list[Group], numbers: dict[str, float], alarm: str) -> None:
    """Guards against hours of training that change nothing, and say nothing."""
    assert find_alarms(Update("solve", (), groups=tuple(groups)), numbers) == ([alarm] if alarm else [])


def test_equal_rewards_are_those_that_the_update_sees() -> None:
    """Guards against "the gradient is 0" where the reason is that cut replies count as wrong."""
    cut = (*group(WRONG), *group(RIGHT, stop="length"))
    update = Objective(truncated="wrong").update("solve", [cut])
    [alarm] = find_alarms(update, {"lr": 1e-6, "grad_norm": 0.0})
    assert alarm.endswith("the replies to a prompt have equal rewards in every group (all are 0)")
