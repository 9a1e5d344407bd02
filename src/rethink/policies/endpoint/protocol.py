"""What is asked of an endpoint beyond what the client package knows, and what answers mean. Nothing is sent from here."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Container, Mapping, Set
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx2

from rethink.errors import UserError
from rethink.seeds import stable_hash
from rethink.types import Prompt, Sampling, StopReason

OPTIONAL = {
    "seed": "the endpoint takes no seed: samples cannot be repeated",
    "top_k": "the endpoint takes no top_k: samples are drawn without it",
    "max_tokens": "the endpoint takes no max_tokens: it gets the cap as max_completion_tokens",
    "stream_options": "the endpoint takes no stream_options: how many tokens a streamed reply has stays unknown",
    "prompt_logprobs": "",
    "return_tokens_as_token_ids": "",
}
"""Parameters that a server may refuse, and the warning when one does ("": none is due)."""

CHOSEN = ("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed")
"""Parameters that come from the settings: a complaint about one of them concerns every request."""

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
"""How vLLM and SGLang are asked to continue the last message instead of answering it."""

NOT_CONTINUED = re.compile(
    "|".join(CONTINUED) + r"|prefill|end with a user message|expected last role|last message.{0,30} user", re.IGNORECASE
)

WHOLE = {None, "", "stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "function_call"}
CUT = {"length", "max_tokens"}
FAILED = {"error", "abort", "cancelled"}
"""Finish reasons of a reply that ended by itself, that ran into its cap, that the server lost half way."""


@dataclass(frozen=True)
class ApiKey:
    """An API key, shown in a request's header and nowhere else."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]*", self.value):
            raise UserError("the endpoint's key has a character that no HTTP header may hold; is it set correctly?")

    def scrub(self, text: str) -> str:
        """Return the text without the key, however a server may have written it."""
        for form in {self.value, json.dumps(self.value)[1:-1], quote(self.value, safe="")} - {""}:
            text = text.replace(form, "[key]")
        return text


@dataclass(frozen=True)
class ServerReply:
    """What a sample needs of a chat completion. `unfit` says why it cannot be graded ("": it can)."""

    text: str
    stop: StopReason = "stop"
    usage: tuple[int | None, int | None] = (None, None)
    unfit: str = ""


@dataclass(frozen=True)
class Fault:
    """An answer without a reply, after so many attempts. `status` is 200 where HTTP says nothing of the failure, None where
    there was no answer."""

    kind: str
    message: str
    status: int | None = None
    parameter: str | None = None
    n_attempts: int = 1

    @property
    def passing(self) -> bool:
        """Whether the same request may well succeed later."""
        return self.status is None or self.status in (200, 408, 409, 429) or self.status >= 500

    @property
    def of_request(self) -> bool:
        """Whether the server objects to what this one request says."""
        return self.status in (400, 413, 422, 451)

    @property
    def overlong(self) -> bool:
        """Whether the server says that the prompt does not fit into the model's context."""
        return self.status in (400, 413, 422) and OVERLONG.search(self.message) is not None


def split_url(url: str, key: ApiKey) -> tuple[httpx2.URL, dict[str, str]]:
    """Return the base URL and the query of http://host:8000, .../v1 or .../chat/completions.

    Raises UserError for what is none."""
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"{key.scrub(url)!r} is not the URL of an endpoint; write it like http://host:8000/v1")
    path = parsed.path.rstrip("/").removesuffix("/chat/completions")
    return parsed.copy_with(path=path or "/v1", query=None, fragment=None), dict(parsed.params)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by name or by address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def parameters(prompt: Prompt, index: int, sampling: Sampling, stream: bool, refused: Set[str]) -> dict[str, Any]:
    """Return how one sample is to be drawn, without the parameters that this server refuses."""
    wanted: dict[str, Any] = {
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": stable_hash(prompt.seed, index, "endpoint") % 2**31,
    }
    if sampling.top_p < 1:
        wanted["top_p"] = sampling.top_p
    if sampling.top_k > 0:
        wanted["top_k"] = sampling.top_k
    if prompt.messages[-1].role == "assistant":
        wanted |= CONTINUED
    if stream:
        wanted["stream_options"] = {"include_usage": True}
    if "max_tokens" in refused:
        wanted["max_completion_tokens"] = sampling.max_tokens
    return {name: value for name, value in wanted.items() if name not in refused}


def named_parameter(fault: Fault, among: Container[str]) -> str | None:
    """Return the first of these parameters that the server complains of."""
    for name in re.findall(r"\w+", fault.parameter or fault.message):
        if name in among:
            return str(name)
    return None


def refuses_to_continue(sent: Mapping[str, Any], fault: Fault) -> bool:
    """Return whether a request to continue the last message is refused as such."""
    named = f"{fault.parameter} {fault.message}"
    return CONTINUED.items() <= sent.items() and fault.status in (400, 422) and bool(NOT_CONTINUED.search(named))


def complaint(payload: Any) -> tuple[str, str | None]:
    """Return message and parameter of an error: {"error": {"message", "param", "code"}}, the same without "error" or with
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


def read_error(error: Any) -> Fault:
    """Return what an `openai.APIError` says, without the request that it holds."""
    n_attempts = 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
    message, parameter = complaint(error.body)
    answer = getattr(error, "response", None)
    if answer is not None:
        wait = answer.headers.get("retry-after")
        message = (message or answer.text) + (f" (Retry-After: {wait})" if wait else "")
        return Fault(f"HTTP {answer.status_code}", message, answer.status_code, parameter, n_attempts)
    if error.body is None:  # no connection, or none any more
        cause = error.__cause__ or error
        return Fault(type(cause).__name__, str(cause), None, None, n_attempts)
    # An event of a stream, with the status that HTTP would have given, had the answer not begun.
    stated = error.code or ""
    status = int(stated) if stated.isdecimal() and 400 <= int(stated) < 600 else 200
    return Fault("an error event", message or error.message, status, parameter, n_attempts)


def read_completion(completion: Any) -> ServerReply | Fault:
    """Return the reply in a `ChatCompletion`, which the client package does not validate, or what else it is."""
    try:
        choice = completion.choices[0]
        return whole_reply(content_text(choice.message.content), choice.finish_reason, completion.usage)
    except (LookupError, TypeError, AttributeError):
        error = getattr(completion, "error", None)
        said = complaint(error)[0] if error else str(completion)
        return Fault("an answer that is no chat completion", said, 200)


def whole_reply(text: str, finish_reason: str | None, usage: Any) -> ServerReply | Fault:
    """Return a reply that has come to its end, by what its finish reason says of that."""
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if finish_reason in FAILED:
        return Fault("an unfinished reply", f"finish reason {finish_reason!r}", 200)
    if finish_reason in CUT:
        return ServerReply(text, "length", counts)
    if finish_reason in WHOLE:
        return ServerReply(text, "stop", counts)
    return ServerReply(text, "stop", counts, f"the server ended the reply with {finish_reason!r}")


def content_text(content: Any) -> str:
    """Return the text of a message's content: null, a string, or parts of which those of another type (thinking) are left
    out. Raises TypeError or LookupError for anything else."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("a message's content that is no text")
    return encodable(content or "")


def encodable(text: str) -> str:
    """Return the text with a mark for half of a surrogate pair, which is legal in JSON but can be written to no file."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else None
