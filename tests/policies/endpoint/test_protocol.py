"""URLs, keys, parameters, replies and error messages, without a server."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from openai.types.chat import ChatCompletion

from rethink.errors import UserError
from rethink.policies.endpoint.protocol import (
    CONTINUE_TURN,
    ApiKey,
    Fault,
    ServerReply,
    cannot_continue,
    is_loopback,
    parse_error,
    parse_url,
    read_completion,
)


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("http://host:8000", "http://host:8000/v1/chat/completions"),
        (" http://host:8000/ ", "http://host:8000/v1/chat/completions"),
        ("https://host/v1", "https://host/v1/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ("https://host/x/chat/completions/?version=2", "https://host/x/chat/completions?version=2"),
    ],
)
def test_urls_are_completed(given: str, full: str) -> None:
    """Guards against a path that is added twice or not at all."""
    base, query = parse_url(given, ApiKey(""))
    assert f"{base}/chat/completions" == full.partition("?")[0]
    assert query == dict(pair.split("=") for pair in full.partition("?")[2].split("&") if pair)


@pytest.mark.parametrize("given", ["", "host:8000", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1"])
def test_bad_urls_are_refused(given: str) -> None:
    """Guards against a failure that appears only after the last retry."""
    with pytest.raises(UserError, match=r"write it like http://host:8000/v1"):
        parse_url(given, ApiKey(""))


def test_loopback_is_known_by_name_and_by_address() -> None:
    """Guards against a proxy between this machine and itself, and against none for other machines."""
    assert all(is_loopback(h) for h in ("localhost", "a.localhost", "127.0.0.1", "127.3.5.7", "::1", "0.0.0.0"))
    assert not any(is_loopback(h) for h in ("localhost.org", "10.0.0.1", "notlocalhost", "128.0.0.1", "::2"))


@pytest.mark.parametrize("key", ["sk\n7-secret", "sk-secret\u2026", "two words-secret"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    """Guards against an encoding error that shows the key."""
    with pytest.raises(UserError, match="HTTP headers cannot hold") as caught:
        ApiKey(key)
    assert "secret" not in str(caught.value) + repr(caught.value.__context__)


def test_a_key_is_removed_in_every_spelling() -> None:
    """Guards against a key that JSON or a URL spells in another way."""
    key = "sk-\"a/b+c'7"
    text = f"{key} {json.dumps(key)[1:-1]} {quote(key, safe='')}"
    assert ApiKey(key).scrub(text) == "[key] [key] [key]"
    assert ApiKey("").scrub(text) == text
    assert key not in repr(ApiKey(key))


# Replies


def read(message: Any, **more: Any) -> ServerReply | Fault:
    """The reply of a completion with this message."""
    choice = {"index": 0, "message": message, "finish_reason": more.pop("finish_reason", "stop")}
    return read_completion(ChatCompletion.construct(choices=[choice], **more))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "b"}], "b"),
        ([], ""),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("a whole \U0001f600 pair", "a whole \U0001f600 pair"),
    ],
)
def test_the_content_is_the_text(content: object, text: str) -> None:
    """Guards against None and lists as text, reasoning as an answer, and text that cannot be written to a file."""
    assert read({"content": content, "reasoning_content": "is it 7?", "reasoning": "is it 8?"}) == ServerReply(text)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((reason, ServerReply("a")) for reason in ("stop", "tool_calls", None)),
        ("length", ServerReply("a", "length")),
        ("error", Fault("an unfinished reply", "finish reason 'error'", 200)),
        ("content_filter", ServerReply("a", ungraded_reason="the server ended the reply with 'content_filter'")),
    ],
)
def test_finish_reasons(reason: str | None, expected: ServerReply | Fault) -> None:
    """Guards against cut or filtered replies that pass for complete ones."""
    assert read({"content": "a"}, finish_reason=reason) == expected


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, (3, 5)),
        (None, (None, None)),
        ({}, (None, None)),
        ({"prompt_tokens": 2, "completion_tokens": "many"}, (2, None)),
    ],
)
def test_unknown_usage_is_none(usage: object, counts: tuple[int | None, int | None]) -> None:
    """Guards against unknown usage counted as 0."""
    assert read({"content": "a"}, usage=usage) == ServerReply("a", usage=counts)


# Errors


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"error": {"message": "m", "param": "p", "code": "c"}}, ("m (c)", "p")),
        ({"message": "m", "code": 400}, ("m", None)),
        ({"detail": [{"msg": "odd"}]}, ('[{"msg": "odd"}]', None)),
        ([{"error": {"message": "m"}}], ("m", None)),
        ({"error": "plain"}, ("plain", None)),
        (None, ("", None)),
        ([], ("", None)),
        ({"error": {}}, ("", None)),
    ],
)
def test_error_messages_of_many_servers(payload: Any, expected: tuple[str, str | None]) -> None:
    """Guards against errors without the server's own words."""
    assert parse_error(payload) == expected


OVERLONG = [
    (400, "This model's maximum context length is 13 tokens. However, your messages resulted in 17 tokens."),
    (400, "Input tokens exceed the configured limit of 13 tokens. Your messages resulted in 17 tokens."),
    (400, "The input (17 tokens) is longer than the model's context length (13 tokens)."),
    (400, "the request exceeds the available context size. try increasing the context size"),
    (400, "The decoder prompt (length 17) is longer than the maximum model length of 13."),
    (400, "prompt is too long: 17 tokens > 13 maximum"),
    (400, "The input token count (17) exceeds the maximum number of tokens allowed (13)."),
    (400, "too long (context_length_exceeded)"),
    (413, "Please reduce the length of the messages or completion."),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 13. Given: 11 and 7"),
]


@pytest.mark.parametrize(("status", "message"), OVERLONG)
def test_overlong_prompts_are_recognized(status: int, message: str) -> None:
    """Guards against one long problem that ends an evaluation."""
    assert Fault("HTTP", message, status).is_overlong
    assert not Fault("HTTP", message, 404).is_overlong


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("Unrecognized request arguments supplied: add_generation_prompt, continue_final_message", None),
        ("Unknown parameter", "add_generation_prompt"),
        ('[{"type": "extra_forbidden", "loc": ["body", "continue_final_message"], "input": true}]', None),
        ("continue_final_message is set but the final message does not appear in the chat", None),
        ("This model does not support assistant message prefill.", None),
        ("Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant", None),
    ],
)
def test_servers_that_cannot_continue_a_turn_are_recognized(message: str, parameter: str | None) -> None:
    """Guards against parameters that are left out silently, so a new turn passes for the rest of the old one."""
    fault = Fault("HTTP 400", message, 400, parameter)
    assert cannot_continue(CONTINUE_TURN, fault)
    assert not cannot_continue({}, fault)
    assert not cannot_continue(CONTINUE_TURN, Fault("HTTP 400", "odd", 400))


def test_transient_faults() -> None:
    """Guards against "refuses a request" for a failure that was retried, and the reverse."""
    statuses = [None, 200, 400, 401, 404, 408, 409, 413, 422, 429, 500, 503]
    transient = [status for status in statuses if Fault("f", "m", status).is_transient]
    assert transient == [None, 200, 408, 409, 429, 500, 503]
