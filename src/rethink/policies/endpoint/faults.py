"""Failed requests: what the server said, whether the same request may succeed later, and what it objects to."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from rethink.policies.endpoint.protocol import CONTINUE_TURN

CONTEXT = re.compile(
    r"context.{0,3}(length|size|window|limit)|(prompt|input) is too long|longer than the max|exceed.{0,30}context"
    r"|reduce the length of the (mess|inp)|input token.{0,40} exceed|`inputs`.{0,30} must "
    r"|prompt.{0,40}too large for model|requested token count exceeds",
    re.IGNORECASE | re.DOTALL,
)
"""Matches messages about the context's length of vLLM, SGLang, llama.cpp, text-generation-inference and providers."""

REPLY_LENGTH = re.compile(r"max_\w*tokens|(in|for) the (completion|output)|output tokens", re.IGNORECASE)
"""Matches those that also speak of the length that was asked for the reply."""

N_PROMPT_TOKENS = re.compile(
    r"(\d+) (?:tokens )?(?:in the (?:messages|prompt|input)|from the input|of text input|(?:`inputs`|input|prompt) tokens)"
    r"|given: (\d+)|input length and .{0,40}: (\d+) \+",
    re.IGNORECASE,
)
N_CONTEXT_TOKENS = re.compile(
    r"context (?:length|size|window) (?:is|of) (\d+)|must be <= (\d+)|\+ \d+ > (\d+)", re.IGNORECASE
)
"""The numbers in these messages."""

UNKNOWN_PARAMETER = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|not (be )?(supported|permitted|allowed|recogni[sz]ed)"
    r"|(does not|doesn't) (support|accept)",
    re.IGNORECASE,
)

CANNOT_CONTINUE = re.compile(
    "|".join(CONTINUE_TURN) + r"|prefill|end with a user message|expected last role|last message.{0,30} user",
    re.IGNORECASE,
)

UNKNOWN_MODEL = re.compile(
    r"model_not_found|not a valid model|invalid model|unknown model|no such model|model not (exist|found)"
    r"|model.{0,100}(does not exist|do not have access|not found|is not available)",
    re.IGNORECASE | re.DOTALL,
)

FILTERED = re.compile(r"moderat|flagged|content.{0,3}(filter|policy)|safety|data_inspection", re.IGNORECASE)

TIME_OUT = "time-out"
"""The kind of fault of a request that was not answered in time."""

LONGEST_WAIT_S = 120.0
"""A longer Retry-After means that a quota is used up."""


@dataclass(frozen=True)
class Fault:
    """A failed request. `status` is None without an answer, and 200 if the failure does not show in the HTTP status.

    `wait_s` is what the server asks to wait before the next attempt."""

    kind: str
    message: str
    status: int | None = None
    parameter: str | None = None
    n_attempts: int = 1
    wait_s: float = 0.0

    @property
    def is_transient(self) -> bool:
        """True if the same request may succeed later."""
        return self.status is None or self.status in (200, 408, 409, 429) or self.status >= 500

    @property
    def blames_request(self) -> bool:
        """True if the server objects to the content of this request."""
        if self.status == 403:
            return bool(FILTERED.search(self.message))
        return self.status in (400, 413, 422, 451) and not self.blames_model

    @property
    def blames_model(self) -> bool:
        """True if the server does not serve this model."""
        return self.status == 404 or (self.status in (400, 422) and bool(UNKNOWN_MODEL.search(self.message)))

    @property
    def is_overlong(self) -> bool:
        """True if the prompt does not fit into the model's context, whatever length is asked for the reply."""
        return self._concerns_context and not self.is_overlong_with_reply

    @property
    def is_overlong_with_reply(self) -> bool:
        """True if the prompt fits into the model's context, but not together with a reply of max_tokens."""
        if not self._concerns_context or not REPLY_LENGTH.search(self.message):
            return False
        text = self.message.replace(",", "")
        n_prompt, n_context = N_PROMPT_TOKENS.search(text), N_CONTEXT_TOKENS.search(text)
        if n_prompt is None or n_context is None:
            return bool(re.search(r"max_\w*tokens", self.message))
        return int(n_prompt[n_prompt.lastindex or 0]) < int(n_context[n_context.lastindex or 0])

    @property
    def is_reply_cut(self) -> bool:
        """True if the model reached the token limit while it was thinking, which OpenAI reports as an error."""
        return self.status == 400 and "output limit was reached" in self.message

    @property
    def _concerns_context(self) -> bool:
        return self.status in (400, 413, 422) and CONTEXT.search(self.message) is not None


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
    message, parameter = parse_error(error.body)
    answer = getattr(error, "response", None)
    if answer is not None:
        wait = answer.headers.get("retry-after")
        message = (message or answer.text) + (f" (Retry-After: {wait})" if wait else "")
        return Fault(f"HTTP {answer.status_code}", message, answer.status_code, parameter, 1, read_wait(answer.headers))
    if error.body is None:  # no connection, or a lost one
        cause = error.__cause__ or error
        return Fault(type(cause).__name__, str(cause))
    # An event of a stream. Its code is the status that HTTP would have had if the answer had not started.
    code = error.code or ""
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 200
    return Fault("an error event", message or error.message, status, parameter)


def read_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that Retry-After asks to wait, 0 if it is missing or senseless.

    A date is compared with the server's own Date, so a wrong clock here does not matter."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        until = _seconds(value)
        now = _seconds(headers.get("date", ""))
        seconds = 0.0 if until is None else until - (time.time() if now is None else now)
    return seconds if seconds > 0 and not math.isnan(seconds) else 0.0


def _seconds(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
