"""What is sent to a chat-completions endpoint, and what its answers mean. Nothing is sent from here."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx2

from rethink.errors import UserError
from rethink.seeds import stable_hash
from rethink.types import Prompt, Sampling, StopReason

YIELDING = {
    "seed": "the endpoint takes no seed: samples cannot be repeated",
    "top_k": "the endpoint takes no top_k: samples are drawn without it",
    "max_tokens": "the endpoint takes no max_tokens: it gets the cap as max_completion_tokens",
    "stream_options": "the endpoint takes no stream_options: how many tokens a streamed reply has stays unknown",
}
"""Parameters that a server may refuse, and what is said when one does."""

OVERLONG = re.compile(
    r"context.{0,3}(length|size|window)|(prompt|input) is too long|longer than the max|reduce the length of the (mess|inp)"
    r"|input token.{0,40} exceed|`inputs`.{0,30} must ",
    re.IGNORECASE | re.DOTALL,
)
"""How vLLM, SGLang, llama.cpp, text-generation-inference and the large providers say that a prompt does not fit."""

UNKNOWN = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|not (be )?(supported|permitted|allowed|recogni[sz]ed)"
    r"|(does not|doesn't) (support|accept)",
    re.IGNORECASE,
)

CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
"""How vLLM and SGLang are told to go on with the last message instead of answering it."""

NOT_CONTINUED = re.compile(
    "|".join(CONTINUED) + r"|prefill|end with a user message|expected last role|last message.{0,30} user", re.IGNORECASE
)


@dataclass(frozen=True)
class Key:
    """An API key, shown in a request's header and nowhere else."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]*", self.value):
            raise UserError("the endpoint's key has a character that no HTTP header may hold; is it set correctly?")

    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}

    def scrub(self, text: str) -> str:
        """The text without the key, be it plain or in the forms that JSON and URLs give it."""
        for form in {self.value, json.dumps(self.value)[1:-1], quote(self.value, safe="")} - {""}:
            text = text.replace(form, "[key]")
        return text


@dataclass(frozen=True)
class Reply:
    """What a sample needs of a chat completion."""

    text: str
    stop: StopReason
    usage: tuple[int | None, int | None]


@dataclass(frozen=True)
class Fault:
    """An answer without a reply; `status` is None where there was no answer. `wait_s` is what Retry-After says."""

    kind: str
    message: str
    status: int | None = None
    parameter: str | None = None
    wait_s: float | None = None

    @property
    def passing(self) -> bool:
        """Whether the same request may well succeed later."""
        return self.status is None or self.status in (200, 408, 409, 425, 429) or self.status >= 500

    @property
    def overlong(self) -> bool:
        """Whether the server says that the prompt does not fit into the model's context."""
        return self.status in (400, 413, 422) and OVERLONG.search(self.message) is not None


Read = Callable[[httpx2.Response, float], Awaitable[Reply | Fault]]
"""What makes of an answer a reply, given the seconds since 1970 for a Retry-After that is a date."""


def completions_url(url: str, key: Key) -> httpx2.URL:
    """The full URL for http://host:8000, .../v1 or .../chat/completions. Raises UserError for what is none."""
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"{key.scrub(url)!r} is not the URL of an endpoint; write it like http://host:8000/v1")
    path = parsed.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return parsed.copy_with(path=path)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or by address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def request_body(
    model: str, prompt: Prompt, index: int, sampling: Sampling, refused: Set[str], stream: bool
) -> dict[str, Any]:
    """The request for one sample, without the parameters that this server refuses."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": stable_hash(prompt.seed, index, "endpoint") % 2**31,
    }
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k > 0:
        body["top_k"] = sampling.top_k
    if prompt.messages[-1].role == "assistant":
        body |= CONTINUED
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if "max_tokens" in refused:
        body["max_completion_tokens"] = sampling.max_tokens
    return {name: value for name, value in body.items() if name not in refused}


def refused_parameter(sent: Mapping[str, Any], fault: Fault) -> str | None:
    """The parameter that the server refuses, of those that were sent and can be done without."""
    if fault.status not in (400, 422) or not UNKNOWN.search(fault.message):
        return None
    named = re.findall(r"\w+", fault.parameter or fault.message)
    return next((name for name in named if name in YIELDING and name in sent), None)


def refuses_to_continue(sent: Mapping[str, Any], fault: Fault) -> bool:
    """Whether a request to go on with the last message is refused as such."""
    named = f"{fault.parameter} {fault.message}"
    return CONTINUED.items() <= sent.items() and fault.status in (400, 422) and bool(NOT_CONTINUED.search(named))


async def read_whole(answer: httpx2.Response, now: float) -> Reply | Fault:
    """What an answer means, read to its end."""
    return read_answer(answer.status_code, answer.headers, await answer.aread(), now)


def read_answer(status: int, headers: Mapping[str, str], content: bytes, now: float) -> Reply | Fault:
    """What an answer means; `now` is in seconds since 1970, for a Retry-After that is a date."""
    text = content.decode("utf-8", "replace")
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        payload = None
    if 200 <= status < 300:
        reply = _read_reply(payload)
        return reply or Fault("an answer that is no chat completion", complaint(payload)[0] or text, 200)
    message, parameter = complaint(payload)
    if 300 <= status < 400 and "location" in headers:
        message = f"moved to {headers['location']}"
    wait_s = _stated_wait(headers["retry-after"], now) if "retry-after" in headers else None
    return Fault(f"HTTP {status}", message or text, status, parameter, wait_s)


def _read_reply(payload: Any) -> Reply | None:
    try:
        choice = payload["choices"][0]
        # Half of a surrogate pair is legal in JSON, but could be written to no file.
        text = re.sub("[\ud800-\udfff]", "\ufffd", content_text(choice["message"].get("content")))
        return Reply(text, stop_reason(choice.get("finish_reason")), token_counts(payload.get("usage")))
    except (LookupError, TypeError, AttributeError):
        return None


def content_text(content: Any) -> str:
    """The text of a message's content: null, a string, or parts of which those of another type (thinking) are left out.

    Raises TypeError or LookupError for anything else."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("a message's content that is no text")
    return content or ""


def stop_reason(finish_reason: Any) -> StopReason:
    """Whether the reply ran into its cap."""
    return "length" if finish_reason == "length" else "stop"


def token_counts(usage: Any) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the reply; None for what the server does not state."""
    return _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else None


def complaint(payload: Any) -> tuple[str, str | None]:
    """Message and parameter of an error body: {"error": {"message", "param", "code"}}, the same without "error" or with
    "detail", {"error": text}, or a list of one such. "" where there is none."""
    error = payload[0] if isinstance(payload, list) and payload else payload
    if isinstance(error, dict) and error.get("error"):
        error = error["error"]
    if not isinstance(error, dict):
        return (error if isinstance(error, str) else ""), None
    message = error.get("message") or error.get("detail") or ""
    message = message if isinstance(message, str) else json.dumps(message)
    parameter, code = error.get("param"), error.get("code")
    message += f" ({code})" if message and isinstance(code, str) else ""
    return message, parameter if isinstance(parameter, str) else None


def _stated_wait(header: str, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, in seconds or as an HTTP date; None where it is neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", header.strip()):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return None
