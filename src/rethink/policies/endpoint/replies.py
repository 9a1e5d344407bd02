"""Replies in chat completions, which the openai client does not validate: text, finish reason, usage."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from openai import BaseModel

from rethink.policies.endpoint.faults import Fault, parse_error
from rethink.types import StopReason

FINISHED = {"stop", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn", "complete"}
CALLED = {"tool_calls", "function_call", "tool_use", "tool_call"}
CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"}
FAILED = {"error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource", ""}
FILTERED = {
    "content_filter",
    "safety",
    "recitation",
    "refusal",
    "sensitive",
    "prohibited_content",
    "guardrail_intervened",
}
"""Finish reasons of replies that are complete, that may be calls of tools, that reached the token limit, that the server
did not finish, and that it stopped because of their content. Replies that end for any other reason are not graded."""


@dataclass(frozen=True)
class ServerReply:
    """The parts of a chat completion that a sample needs. `ungraded_reason` says why it cannot be graded ("": it can).

    `note`: "reasoning" if the server returned separate reasoning but no content, "filtered" if it stopped the reply because
    of what it says. `model` is the name of the model that the server says has answered ("": it does not say)."""

    text: str
    stop: StopReason = "stop"
    usage: tuple[int | None, int | None] = (None, None)
    ungraded_reason: str = ""
    note: Literal["", "reasoning", "filtered"] = ""
    model: str = ""


def read_completion(completion: Any) -> ServerReply | Fault:
    """Return the reply in a `ChatCompletion`, or a fault."""
    try:
        choice = _first_choice(completion.choices)
        error = getattr(choice, "error", None)
        if error:
            return Fault("an unfinished reply", parse_error(error)[0] or str(error), 200)
        text = content_text(choice.message.content)
        if getattr(choice.message, "refusal", None) and not text.strip():
            return ServerReply("", ungraded_reason=f"the model refuses: {choice.message.refusal}", note="filtered")
        reply = finished_reply(text, choice.finish_reason, completion.usage, has_reasoning(choice.message))
        return with_model(reply, completion.model)
    except (LookupError, TypeError, AttributeError):
        error = getattr(completion, "error", None)
        message = parse_error(error)[0] if error else _as_sent(completion)
        return Fault("not a chat completion", message, 200)


def finished_reply(text: str, finish_reason: Any, usage: Any, reasoning: bool = False) -> ServerReply | Fault:
    """Return the reply, or a fault if its finish reason is missing or means that the server failed."""
    given = finish_reason.get("type") if isinstance(finish_reason, dict) else finish_reason
    reason = str(given or "").strip().lower()
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    is_empty = not text.strip()
    counts = (
        counts[0] or None,
        counts[1] if is_empty else counts[1] or None,
    )  # a count of 0 is a gap: a prompt has tokens
    if reason in FAILED:
        return Fault("an unfinished reply", f"finish reason {given!r}", 200)
    if reason in CUT_OFF:
        return ServerReply(text, "length", counts, note="reasoning" if reasoning and is_empty else "")
    if reason in FILTERED:
        return ServerReply(text, "stop", counts, f"the server ended the reply with {given!r}", "filtered")
    if reason not in FINISHED | CALLED:
        return ServerReply(text, "stop", counts, f"the server ended the reply with {given!r}, whose meaning is unknown")
    if reason in CALLED and is_empty:
        return ServerReply(text, "stop", counts, "the reply is a call of a tool, without text")
    if reasoning and is_empty:
        return ServerReply(text, "stop", counts, "the reply has only reasoning and no content", "reasoning")
    return ServerReply(text, "stop", counts)


def with_model(reply: ServerReply | Fault, model: Any) -> ServerReply | Fault:
    """Return the reply with the name of the model that has answered."""
    return replace(reply, model=model) if isinstance(reply, ServerReply) and isinstance(model, str) else reply


def content_text(content: Any) -> str:
    """Return the text of a message's content: null, a string, or a list of parts, of which only text parts count.

    Raise TypeError or LookupError for anything else."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("the content of a message is not text")
    return replace_surrogates(content or "")


def has_reasoning(message: Any) -> bool:
    """Return whether a message, or a piece of one, has reasoning apart from its content."""
    return any(getattr(message, name, None) for name in ("reasoning_content", "reasoning"))


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which are legal in JSON but cannot be written to a file, by U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _as_sent(completion: Any) -> str:
    """Return an answer that is no chat completion, as its JSON text if it is JSON."""
    if isinstance(completion, list):
        return "[" + ", ".join(map(_as_sent, completion)) + "]"
    if not isinstance(completion, BaseModel):
        return str(completion)
    return json.dumps(completion.model_dump(mode="json", exclude_none=True, warnings=False))


def _first_choice(choices: Any) -> Any:
    """Return the choice with index 0, or else the first one. Raise LookupError without any."""
    for choice in choices:
        if getattr(choice, "index", None) == 0:
            return choice
    return choices[0]


def _count(usage: Any, name: str) -> int | None:
    """Return a number of tokens; None if it is missing or cannot be one."""
    value = getattr(usage, name, None)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None
