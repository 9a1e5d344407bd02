"""What the `openai` package leaves to us: optional request parameters, error messages, finish reasons. Sends nothing."""

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
    "seed": "the endpoint does not support seed: samples cannot be repeated",
    "top_k": "the endpoint does not support top_k: samples are drawn without it",
    "max_tokens": "the endpoint does not support max_tokens: it gets max_completion_tokens instead",
    "stream_options": "the endpoint does not support stream_options: token counts of streamed replies are unknown",
    "prompt_logprobs": "",
    "return_tokens_as_token_ids": "",
}
"""Parameters that a server may not support, with the warning for each ("": no warning)."""

FROM_SETTINGS = ("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed")
"""Parameters that come from settings, so an error about one of them concerns every request."""

OVERLONG = re.compile(
    r"context.{0,3}(length|size|window)|(prompt|input) is too long|longer than the max|reduce the length of the (mess|inp)"
    r"|input token.{0,40} exceed|`inputs`.{0,30} must ",
    re.IGNORECASE | re.DOTALL,
)
"""Matches the messages about over-long prompts of vLLM, SGLang, llama.cpp, text-generation-inference and providers."""

UNKNOWN_PARAMETER = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|not (be )?(supported|permitted|allowed|recogni[sz]ed)"
    r"|(does not|doesn't) (support|accept)",
    re.IGNORECASE,
)

CONTINUE_TURN = {"continue_final_message": True, "add_generation_prompt": False}
"""Parameters of vLLM and SGLang to continue the last message instead of replying to it."""

CANNOT_CONTINUE = re.compile(
    "|".join(CONTINUE_TURN) + r"|prefill|end with a user message|expected last role|last message.{0,30} user",
    re.IGNORECASE,
)

FINISHED = {None, "", "stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "function_call"}
CUT_OFF = {"length", "max_tokens"}
FAILED = {"error", "abort", "cancelled"}
"""Finish reasons of replies that are complete, that reached the token limit, and that the server did not finish."""


@dataclass(frozen=True)
class ApiKey:
    """An API key. It goes into a request header and is shown nowhere."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]*", self.value):
            raise UserError("the endpoint's key has a character that HTTP headers cannot hold; is it set correctly?")

    def scrub(self, text: str) -> str:
        """Return the text with the key replaced by "[key]", also in its JSON and URL spellings."""
        for form in {self.value, json.dumps(self.value)[1:-1], quote(self.value, safe="")} - {""}:
            text = text.replace(form, "[key]")
        return text


@dataclass(frozen=True)
class ServerReply:
    """The parts of a chat completion that a sample needs. `ungraded_reason` says why it cannot be graded ("": it can)."""

    text: str
    stop: StopReason = "stop"
    usage: tuple[int | None, int | None] = (None, None)
    ungraded_reason: str = ""


@dataclass(frozen=True)
class Fault:
    """A failed request. `status` is None without an answer, and 200 if the failure does not show in the HTTP status."""

    kind: str
    message: str
    status: int | None = None
    parameter: str | None = None
    n_attempts: int = 1

    @property
    def is_transient(self) -> bool:
        """True if the same request may succeed later."""
        return self.status is None or self.status in (200, 408, 409, 429) or self.status >= 500

    @property
    def blames_request(self) -> bool:
        """True if the server objects to the content of this request."""
        return self.status in (400, 413, 422, 451)

    @property
    def is_overlong(self) -> bool:
        """True if the prompt does not fit into the model's context."""
        return self.status in (400, 413, 422) and OVERLONG.search(self.message) is not None


def parse_url(url: str, key: ApiKey) -> tuple[httpx2.URL, dict[str, str]]:
    """Return base URL and query of a URL like http://host:8000, .../v1 or .../chat/completions.

    Raise UserError if it is not a URL."""
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"{key.scrub(url)!r} is not the URL of an endpoint; write it like http://host:8000/v1")
    path = parsed.path.rstrip("/").removesuffix("/chat/completions")
    return parsed.copy_with(path=path or "/v1", query=None, fragment=None), dict(parsed.params)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def sampling_parameters(
    prompt: Prompt, index: int, sampling: Sampling, stream: bool, unsupported: Set[str]
) -> dict[str, Any]:
    """Return the parameters of a request for one sample, without those that the server does not support."""
    found: dict[str, Any] = {
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": stable_hash(prompt.seed, index, "endpoint") % 2**31,
    }
    if sampling.top_p < 1:
        found["top_p"] = sampling.top_p
    if sampling.top_k > 0:
        found["top_k"] = sampling.top_k
    if prompt.messages[-1].role == "assistant":
        found |= CONTINUE_TURN
    if stream:
        found["stream_options"] = {"include_usage": True}
    if "max_tokens" in unsupported:
        found["max_completion_tokens"] = sampling.max_tokens
    return {name: value for name, value in found.items() if name not in unsupported}


def named_parameter(fault: Fault, among: Container[str]) -> str | None:
    """Return the first of these parameters that the server's error names, or None."""
    for name in re.findall(r"\w+", fault.parameter or fault.message):
        if name in among:
            return str(name)
    return None


def cannot_continue(sent: Mapping[str, Any], fault: Fault) -> bool:
    """Return whether the server refused to continue the last message."""
    named = f"{fault.parameter} {fault.message}"
    return CONTINUE_TURN.items() <= sent.items() and fault.status in (400, 422) and bool(CANNOT_CONTINUE.search(named))


def parse_error(payload: Any) -> tuple[str, str | None]:
    """Return message ("" if missing) and parameter of an error.

    Read {"error": {"message", "param", "code"}}, the same without "error" or with "detail", {"error": text}, and a list of
    one of these."""
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
    """Return the fault of an `openai.APIError`, without the request that it holds."""
    n_attempts = 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
    message, parameter = parse_error(error.body)
    answer = getattr(error, "response", None)
    if answer is not None:
        wait = answer.headers.get("retry-after")
        message = (message or answer.text) + (f" (Retry-After: {wait})" if wait else "")
        return Fault(f"HTTP {answer.status_code}", message, answer.status_code, parameter, n_attempts)
    if error.body is None:  # no connection, or a lost one
        cause = error.__cause__ or error
        return Fault(type(cause).__name__, str(cause), None, None, n_attempts)
    # An event of a stream. Its code is the status that HTTP would have had if the answer had not started.
    code = error.code or ""
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 200
    return Fault("an error event", message or error.message, status, parameter, n_attempts)


def read_completion(completion: Any) -> ServerReply | Fault:
    """Return the reply in a `ChatCompletion`, which the openai client does not validate, or a fault."""
    try:
        choice = completion.choices[0]
        return finished_reply(content_text(choice.message.content), choice.finish_reason, completion.usage)
    except (LookupError, TypeError, AttributeError):
        error = getattr(completion, "error", None)
        message = parse_error(error)[0] if error else str(completion)
        return Fault("not a chat completion", message, 200)


def finished_reply(text: str, finish_reason: str | None, usage: Any) -> ServerReply | Fault:
    """Return the reply, or a fault if its finish reason means that the server failed."""
    counts = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if finish_reason in FAILED:
        return Fault("an unfinished reply", f"finish reason {finish_reason!r}", 200)
    if finish_reason in CUT_OFF:
        return ServerReply(text, "length", counts)
    if finish_reason in FINISHED:
        return ServerReply(text, "stop", counts)
    return ServerReply(text, "stop", counts, f"the server ended the reply with {finish_reason!r}")


def content_text(content: Any) -> str:
    """Return the text of a message's content: null, a string, or a list of parts, of which only text parts count.

    Raise TypeError or LookupError for anything else."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("the content of a message is not text")
    return replace_surrogates(content or "")


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which are legal in JSON but cannot be written to a file, by U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else None
