"""Every strategy shows the images of the question in all of its prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.images import MARK
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.strategies import Setup
from rethink.strategies.parse import parse
from rethink.types import Message, Prompt
from support.images import image
from support.strategies import problem

STRATEGIES = (
    *("solve:2", "refine:2", "reflect", "blind-retry", "reflexion", "fresh-retry", "self-refine"),
    *("merge:3", "vote:3+refine", "best:3", "rsa:4,2,3", "socratic:4"),
)
RED, BLUE, GREEN = image("red"), image("blue"), image("green")
ASKED = replace(
    problem(gold="never"),
    question=f"Is {MARK} like {MARK}?",
    images=(RED, BLUE),
    earlier=(Message("user", "Look.", (GREEN,)), Message("assistant", f"I see an {MARK}.")),
)


def script(prompt: Prompt, index: int, version: int) -> str:
    return f"about {MARK} {index} {prompt.messages[-1].content.count('?')} a{index % 2}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_keeps_the_images(name: str) -> None:
    """Guards against follow-up prompts that lose, repeat or reorder the images, and marks in replies that take their
    places."""
    policy = FakePolicy(script)
    parse(name).run(Setup(policy, Prompts(), judge=policy), [ASKED])
    assert name == "solve:2" or {prompt.phase for prompt in policy.shown} - {"solve"}
    for prompt in policy.shown:
        shown = [each for message in prompt.messages for each in message.images]
        assert shown == [GREEN, RED, BLUE]
        for message in prompt.messages:
            if message.images:
                assert message.content.count(MARK) in (0, len(message.images))
                assert message.role == "user"
