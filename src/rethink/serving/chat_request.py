"""A request for a chat completion: which parameters there are, and what they must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rethink.errors import UserError
from rethink.images import MARK, Image, mark_places, numbers_as_words, read_image
from rethink.serving import fields
from rethink.serving.api_error import ApiError
from rethink.serving.limits import Limits
from rethink.types import ChatRole, Message, Sampling

IGNORED = frozenset(
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]
)
"""Parameters that do not change a reply."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": (),
}
"""Parameters that would change a reply, and the values with which they do not."""

_NO_CALLS = "this server calls no functions; ask for JSON in the prompt, and parse the reply"
INSTEAD = {
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), _NO_CALLS),
    "response_format": "replies are not held to a format; ask for JSON in the prompt, and parse the reply",
    "reasoning_effort": "the name of the model says how much is thought, as in NAME+refine:2",
}
"""What to do without a parameter. Clients send these by themselves, for structured output for example."""

SAMPLING_FIELDS = frozenset(["max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k"])
USED = SAMPLING_FIELDS | {"model", "messages", "n", "stop", "seed", "stream", "stream_options"}

ROLES: Mapping[str, ChatRole] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

OF_MESSAGES = {"role", "content", "name", "reasoning_content", "reasoning", "refusal", "annotations"}
"""Fields that messages may have. The model sees role and content; the last four come from replies that are sent back."""

OF_TOOLS = {"tool", "function", "tool_calls", "tool_call_id", "function_call"}
"""Roles and fields of messages about calls of functions."""

WITHOUT_TOOLS = (
    "this server shows calls of tools to no model: leave out messages with tool_calls and those of the role tool, and "
    "write what the tools returned into a user message"
)

MIN_TEMPERATURE = 1e-3
"""A lower temperature means 0."""

MAX_STOPS, MAX_STOP_CHARS = 16, 200


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks for. `given` are the sampling settings that it names; `seed` is None if it leaves it to us."""

    model: str | None
    earlier: tuple[Message, ...]
    question: Message
    given: Mapping[str, Any]
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False

    def sampling(self, default: Sampling, limits: Limits) -> Sampling:
        """Return the server's sampling settings with those that the request gives in their place."""
        within = replace(default, max_tokens=min(default.max_tokens, limits.max_tokens))
        return replace(within, **self.given)


def read_chat_request(body: bytes, limits: Limits) -> ChatRequest:
    """Return the request in a body. Raise ApiError for what cannot be done, rather than leaving it out."""
    found = fields.parse_object(body)
    _refuse_unknown(found)
    earlier, question = _messages(found, limits)
    options = found.get("stream_options", {})
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", "stream_options")
    stream = fields.boolean(found, "stream")
    return ChatRequest(
        model=fields.text(found["model"], "model") if "model" in found else None,
        earlier=earlier,
        question=question,
        given=_given_sampling(found, limits),
        n=fields.integer(found, "n", 1, 1, limits.max_n),
        stop=_stops(found),
        seed=fields.integer(found, "seed", 0, -(2**63), 2**63 - 1) if "seed" in found else None,
        stream=stream,
        include_usage=stream and fields.boolean(options, "include_usage"),
    )


def _refuse_unknown(found: Mapping[str, Any]) -> None:
    """Raise ApiError for a parameter that would change the reply, or that is not known."""
    for name, value in found.items():
        if name in USED or name in IGNORED:
            continue
        if name not in NEUTRAL:
            raise ApiError(400, f"unknown parameter: {name[:60]!r}", name[:60], code="unknown_parameter")
        if value not in NEUTRAL[name]:
            instead = INSTEAD.get(name, "leave it out")
            raise ApiError(400, f"{name} is not supported: {instead}", name, code="unsupported_parameter")


def _given_sampling(found: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    given: dict[str, Any] = {}
    names = [name for name in ("max_tokens", "max_completion_tokens") if name in found]
    values = {fields.integer(found, name, 1, 1, limits.max_tokens) for name in names}
    if len(values) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one of them", "max_tokens")
    if values:
        given["max_tokens"] = values.pop()
    if "temperature" in found:
        temperature = fields.number(found, "temperature", 1, 0, 2)
        # Logits that are divided by less are infinite.
        given["temperature"] = temperature if temperature >= MIN_TEMPERATURE else 0.0
    if "top_p" in found:
        given["top_p"] = fields.number(found, "top_p", 1, 1e-6, 1)
    if "top_k" in found:
        given["top_k"] = max(0, fields.integer(found, "top_k", 0, -1, 2**31))
    return given


def _stops(found: Mapping[str, Any]) -> tuple[str, ...]:
    stop = found.get("stop", [])
    texts = stop if isinstance(stop, list) else [stop]
    if len(texts) > MAX_STOPS:
        raise ApiError(400, f"stop may hold at most {MAX_STOPS} strings", "stop")
    checked = [fields.text(one, "stop") for one in texts]
    if not all(0 < len(one) <= MAX_STOP_CHARS for one in checked):
        raise ApiError(400, f"a stop string has from 1 to {MAX_STOP_CHARS} characters", "stop")
    return tuple(checked)


def _messages(found: Mapping[str, Any], limits: Limits) -> tuple[tuple[Message, ...], Message]:
    """Return the turns before the last, and the last, which must be the user's."""
    given = found.get("messages")
    if not isinstance(given, list) or not given:
        raise ApiError(400, "messages must be a list of at least one message", "messages")
    n_images = sum(map(_n_images, given))
    if n_images > limits.max_images:  # before any is decoded: an image of a few kilobytes may have millions of pixels
        message = f"messages hold {n_images} images, but this server takes at most {limits.max_images} images"
        raise ApiError(400, message, "messages")
    messages = [_message(one, f"messages[{i}]") for i, one in enumerate(given)]
    *earlier, last = messages
    if last.role != "user" or not last.content.strip():
        raise ApiError(400, "the last message must be the user's, and hold a question", "messages")
    return tuple(earlier), last


def _n_images(message: Any) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def _message(given: Any, where: str) -> Message:
    if not isinstance(given, dict):
        raise ApiError(400, f"{where} must be an object with role and content", where)
    role = given.get("role")
    if isinstance(role, str) and role in OF_TOOLS:
        message = f"{where}.role: {role!r} is not supported: {WITHOUT_TOOLS}"
        raise ApiError(400, message, f"{where}.role", code="unsupported_parameter")
    if not isinstance(role, str) or role not in ROLES:
        raise ApiError(400, f"{where}.role must be one of {', '.join(ROLES)}", f"{where}.role")
    for name, value in given.items():
        if name not in OF_MESSAGES and value not in (None, []):
            instead = f": {WITHOUT_TOOLS}" if name in OF_TOOLS else ""
            message = f"{where}: {name[:60]!r} is not supported{instead}"
            raise ApiError(400, message, where, code="unsupported_parameter")
    text, images = _content(given.get("content"), f"{where}.content")
    return Message(ROLES[role], text, images)


def _content(given: Any, where: str) -> tuple[str, tuple[Image, ...]]:
    """Return the text of a message, with marks for its images, and the images: a string, or a list of parts."""
    if not isinstance(given, list):
        return fields.text(given, where), ()
    texts: list[str] = []
    images: list[Image] = []
    for part in given:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            images.append(_image(part.get("image_url"), where))
            texts.append(MARK)
        elif kind == "text":
            texts.append(fields.text(part.get("text"), where))
        else:
            raise ApiError(400, f"{where}: only text and images are supported", where, code="unsupported_parameter")
    text = "".join(texts)
    if not images:
        return text, ()
    if text.count(MARK) != len(images):
        raise ApiError(400, f"{where}: the text of a message with images must not contain {MARK}", where)
    return mark_places(numbers_as_words(text), len(images), where), tuple(images)


def _image(given: Any, where: str) -> Image:
    """Return an image that is sent as a data URL. The server reads no files and fetches no addresses."""
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not url.startswith("data:"):
        message = (
            "an image must be a data URL (data:image/png;base64,...): this server fetches no addresses and no files"
        )
        raise ApiError(400, f"{where}: {message}", where)
    try:
        return read_image(url, where)
    except UserError as err:
        raise ApiError(400, str(err), where) from err
