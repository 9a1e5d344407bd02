"""Replies in chat completions: text, finish reason, usage, and what cannot be graded."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from rethink.policies.endpoint.faults import Fault
from rethink.policies.endpoint.replies import ServerReply, read_completion


def read(message: Any, **more: Any) -> ServerReply | Fault:
    """Read a completion with this message."""
    choice = {"index": 0, "message": message, "finish_reason": more.pop("finish_reason", "stop")}
    return read_completion(ChatCompletion.construct(choices=[choice], **more))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "b"}], "b"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("a whole \U0001f600 pair", "a whole \U0001f600 pair"),
    ],
)
def test_the_content_is_the_text(content: object, text: str) -> None:
    """Guards against lists as text, reasoning as an answer, and text that cannot be written to a file."""
    assert read({"content": content, "reasoning_content": "is it 7?", "reasoning": "is it 8?"}) == ServerReply(text)


@pytest.mark.parametrize("message", [{"content": None}, {"content": []}, {}, {"content": "", "reasoning": None}])
def test_an_empty_reply_is_a_reply(message: Any) -> None:
    """Guards against None as text."""
    assert read(message) == ServerReply("")


@pytest.mark.parametrize("content", [None, "", " \n", []])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_reply_of_only_reasoning_is_not_a_wrong_answer(content: Any, name: str) -> None:
    """Guards against a server whose parser takes whole replies for reasoning, so that everything is wrong."""
    message = {"content": content, name: "it is 7"}
    finished, cut = read(message), read(message, finish_reason="length")
    assert isinstance(finished, ServerReply)
    assert isinstance(cut, ServerReply)
    assert (finished.ungraded_reason, finished.note) == ("the reply has only reasoning and no content", "reasoning")
    assert (cut.stop, cut.ungraded_reason, cut.note) == ("length", "", "reasoning")


FILTERED = ServerReply("a", ungraded_reason="the server ended the reply with 'content_filter'", note="filtered")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((reason, ServerReply("a")) for reason in ("stop", "STOP", "eos", "eos_token", "stop_sequence", "end_turn")),
        *((reason, ServerReply("a")) for reason in ("tool_calls", "function_call", {"type": "stop", "matched": 7})),
        *((reason, ServerReply("a", "length")) for reason in ("length", "max_tokens", "MAX_TOKENS")),
        *(
            (reason, Fault("an unfinished reply", f"finish reason {reason!r}", 200))
            for reason in ("error", "abort", "cancelled", "insufficient_system_resource", None, "")
        ),
        ("content_filter", FILTERED),
        (
            "repetition",
            ServerReply("a", ungraded_reason="the server ended the reply with 'repetition', whose meaning is unknown"),
        ),
    ],
)
def test_finish_reasons(reason: Any, expected: ServerReply | Fault) -> None:
    """Guards against cut, filtered or broken replies that pass for complete ones."""
    assert read({"content": "a"}, finish_reason=reason) == expected


def test_a_refusal_is_not_a_wrong_answer() -> None:
    """Regression: a refusal in its own field was an empty reply, which counts as wrong."""
    expected = ServerReply("", ungraded_reason="the model refuses: I can't", note="filtered")
    assert read({"content": None, "refusal": "I can't"}) == expected
    assert read({"content": "4", "refusal": None}) == ServerReply("4")


def test_a_call_of_a_tool_is_not_an_answer() -> None:
    """Guards against replies that a server's tool parser has taken away, and that would count as wrong."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    found = read({"content": None, "tool_calls": [call]}, finish_reason="tool_calls")
    assert found == ServerReply("", ungraded_reason="the reply is a call of a tool, without text")


def test_the_first_choice_counts() -> None:
    """Guards against another sample than the one with the seed that was sent, and lists without it."""
    choices = [{"index": i, "message": {"content": f"{i}"}, "finish_reason": "stop"} for i in (2, 0, 1)]
    assert read_completion(ChatCompletion.construct(choices=choices)) == ServerReply("0")
    assert read_completion(ChatCompletion.construct(choices=choices[:1])) == ServerReply("2")


def test_what_is_no_chat_completion_is_shown_as_it_came() -> None:
    """Regression: the message showed fields that the server never sent."""
    listed = ChatCompletion.construct(object="list", data=[{"id": "m"}])
    sent = '{"object": "list", "data": [{"id": "m"}]}'
    for answer, message in ((listed, sent), ([listed], f"[{sent}]"), ("<html>", "<html>")):
        assert read_completion(answer) == Fault("not a chat completion", message, 200)


def test_an_error_in_a_choice_is_a_fault() -> None:
    """Guards against a provider's failure behind a router that is graded as a reply."""
    choice = {"index": 0, "message": {"content": "ha"}, "finish_reason": "stop", "error": {"message": "provider lost"}}
    found = read_completion(ChatCompletion.construct(choices=[choice]))
    assert found == Fault("an unfinished reply", "provider lost", 200)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, (3, 5)),
        ({"prompt_tokens": 3.0, "completion_tokens": 0}, (3, None)),  # beside text
        (None, (None, None)),
        ({}, (None, None)),
        ([], (None, None)),
        ({"prompt_tokens": 2, "completion_tokens": "many"}, (2, None)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": 10**400, "completion_tokens": 1e300}, (None, None)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (None, None)),
        ({"prompt_tokens": 1.5, "completion_tokens": [5]}, (None, None)),
    ],
)
def test_unknown_usage_is_none(usage: object, counts: tuple[int | None, int | None]) -> None:
    """Guards against unknown usage counted as 0, and numbers that no table can hold."""
    assert read({"content": "a"}, usage=usage) == ServerReply("a", usage=counts)
