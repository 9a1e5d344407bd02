"""Warnings about replies that a server gives in its own way."""

from __future__ import annotations

import pytest

from rethink.policies.endpoint.oddities import oddities
from rethink.policies.endpoint.replies import ServerReply
from rethink.types import Sampling
from support.fake_endpoint import FakeEndpoint, completion, make_policy, make_prompt

RUN_ON = "It is 4.<|im_end|>\n<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\nIt is 7."


def kinds(reply: ServerReply, question: str = "What is 2 + 2?", model: str = "org/Model-4B") -> list[str]:
    return [kind for kind, _ in oddities(model, Sampling(max_tokens=64), make_prompt(question), reply)]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (ServerReply("4"), []),
        (ServerReply("4", usage=(5, 64)), []),
        (ServerReply("4", usage=(5, 65)), ["max_tokens"]),
        *(
            (ServerReply("4", model=name), [])
            for name in ("org/Model-4B", "model-4b", "/models/Model-4B/", "Model-4B-2026-01-01")
        ),
        *((ServerReply("4", model=name), ["model"]) for name in ("gpt-3.5-turbo", "org/Model-8B")),
        (ServerReply(" \n", usage=(5, 40)), ["empty"]),
        (ServerReply("", "length"), []),
        (ServerReply("", ungraded_reason="filtered"), []),
        (ServerReply(RUN_ON), ["turn mark"]),
        *(
            (ServerReply(f"It is 4.{mark}"), ["turn mark"])
            for mark in ("<|eot_id|>", "<end_of_turn>", "[INST] Now", "<|user|>")
        ),
        *((ServerReply(text), []) for text in ("a < |b| > c", "<think>hm</think> 4", "[inst]", "x <|> y")),
    ],
)
def test_oddities(reply: ServerReply, expected: list[str]) -> None:
    """Guards against another model's results, longer replies than asked for, and made-up turns that are graded."""
    assert kinds(reply) == expected


def test_a_mark_that_the_prompt_has_is_no_oddity() -> None:
    """Guards against a warning about an answer to a question on chat templates."""
    assert kinds(ServerReply("<|im_end|> ends a turn"), "What does <|im_end|> do?") == []


def test_each_oddity_is_warned_of_once(endpoint: FakeEndpoint) -> None:
    """Guards against a warning per reply, and against one that leaks the key."""
    warnings: list[str] = []
    endpoint.script = lambda asked: completion(RUN_ON, model="served-k-1234567")
    make_policy(endpoint, key="k-1234567", warn=warnings.append).sample([make_prompt("a"), make_prompt("b")], 2)
    assert len(warnings) == 2
    assert warnings[0].startswith("the server answers as the model 'served-[key]', but ")
    assert warnings[1].startswith("a reply contains '<|im_end|>'")
