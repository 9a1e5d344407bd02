"""Failed requests: messages of many servers, over-long prompts, and what may succeed later."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from rethink.policies.endpoint.faults import Fault, cannot_continue, parse_error, read_wait
from rethink.policies.endpoint.protocol import CONTINUE_TURN


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
    (422, "Input validation error: `inputs` must have less than 13 tokens. Given: 17"),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 13. Given: 17 and 7"),
    (
        400,
        "maximum context length is 13 tokens. However, you requested 24 tokens (17 in the messages, 7 in the completion)",
    ),
    (
        400,
        "Requested token count exceeds the model's maximum context length of 1,313 tokens: 1,317 tokens from the input",
    ),
    (400, "Prompt contains 17 tokens and 0 draft tokens, too large for model with 13 maximum context length"),
    (400, "request (17 tokens) exceeds the available context size (13 tokens), try increasing it"),
]

OVERLONG_WITH_REPLY = [
    "'max_tokens' or 'max_completion_tokens' is too large: 9. This model's maximum context length is 13 tokens and your "
    "request has 7 input tokens (9 > 13 - 7).",
    "This model's maximum context length is 13 tokens. However, you requested 17 tokens (8 in the messages, 9 in the "
    "completion). Please reduce the length of the messages or completion.",
    "This model's maximum context length is 13 tokens. However, you requested 9 output tokens and your prompt contains at "
    "least 7 input tokens, for a total of at least 16 tokens. Please reduce the length of the input prompt.",
    "Requested token count exceeds the model's maximum context length of 13 tokens. You requested a total of 16 tokens: 7 "
    "tokens from the input messages and 9 tokens for the completion.",
    "This endpoint's maximum context length is 13 tokens. However, you requested about 16 tokens (7 of text input, 9 in "
    "the output).",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 13. Given: 7 `inputs` tokens and 9 more",
    "`max_tokens` must be less than or equal to `13`, the maximum value is less than the `context_window` for this model",
    "input length and `max_tokens` exceed context limit: 7 + 9 > 13, decrease input length or `max_tokens` and try again",
]


@pytest.mark.parametrize("message", OVERLONG_WITH_REPLY)
def test_too_long_a_reply_is_not_an_overlong_prompt(message: str) -> None:
    """Guards against an evaluation of nothing, with every problem called over-long, because of max_tokens."""
    fault = Fault("HTTP 400", message, 400)
    assert (fault.is_overlong, fault.is_overlong_with_reply) == (False, True)


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


@pytest.mark.parametrize(
    ("status", "message", "blamed"),
    [
        (404, "The model `x` does not exist.", True),
        (400, "Model Not Exist", True),
        (400, "x is not a valid model ID", True),
        (400, "Invalid model name passed in model=x", True),
        (400, "no such thing (model_not_found)", True),
        (400, "the last message must be of the user", False),
        (500, "The model `x` does not exist.", False),
    ],
)
def test_unknown_models_are_recognized(status: int, message: str, blamed: bool) -> None:
    """Guards against a misspelt name that looks like five refused prompts."""
    assert Fault("HTTP", message, status).blames_model is blamed


def test_a_forbidden_prompt_differs_from_a_forbidden_key() -> None:
    """Guards against an evaluation that one flagged prompt ends."""
    assert Fault("HTTP 403", "your input was flagged by moderation", 403).blames_request
    assert not Fault("HTTP 403", "this key may not use this model", 403).blames_request


def test_dates_of_retry_after_are_compared_with_the_servers_clock() -> None:
    """Guards against a clock that was set back by an hour, which would make a request wait for an hour."""
    now = time.time() + 3600
    headers = {"retry-after": formatdate(now + 7, usegmt=True), "date": formatdate(now, usegmt=True)}
    assert read_wait(headers) == 7
    assert read_wait({"retry-after": "7"}) == 7
    for useless in ("", "soon", "-3", "nan", "Mon, 99 Jan 2001"):
        assert read_wait({"retry-after": useless}) == 0
