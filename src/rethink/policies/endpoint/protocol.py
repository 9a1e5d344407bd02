"""Requests to an endpoint: its URL and the parameters of a sample. Sends nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence, Set
from typing import Any

import httpx2

from rethink.credentials import USE_KEY_ENV, ApiKey, check_url
from rethink.errors import UserError
from rethink.seeds import stable_hash
from rethink.types import Prompt, Sampling

OPTIONAL = {
    "seed": "the endpoint does not support seed: samples cannot be repeated",
    "top_k": "the endpoint does not support top_k: samples are drawn without it",
    "max_tokens": "the endpoint does not support max_tokens: it gets max_completion_tokens instead",
    "stop": "the endpoint does not support stop strings: replies are cut at them after they are complete",
    "stream_options": "the endpoint does not support stream_options: token counts of streamed replies are unknown",
    "prompt_logprobs": "",
    "return_tokens_as_token_ids": "",
}
"""Parameters that a server may not support, with the warning for each ("": no warning)."""

FROM_SETTINGS = ("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed")
"""Parameters that come from settings, so an error about one of them concerns every request."""

CONTINUE_TURN = {"continue_final_message": True, "add_generation_prompt": False}
"""Parameters of vLLM and SGLang to continue the last message instead of replying to it."""


def parse_url(url: str, key: ApiKey) -> tuple[httpx2.URL, dict[str, str]]:
    """Return base URL and query of a URL like http://host:8000, .../v1 or .../chat/completions.

    Raise UserError if it is not a URL, or holds a key or a password."""
    try:
        check_url(url)
    except ValueError as err:
        raise UserError(f"the URL of an endpoint {err}") from None
    if len(key.value) >= 4 and key.value in url and "://" in url:
        raise UserError(f"the URL of an endpoint must not hold its key: {USE_KEY_ENV}")
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
    prompt: Prompt, index: int, sampling: Sampling, stream: bool, unsupported: Set[str], stop: Sequence[str] = ()
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
    if stop:
        found["stop"] = list(stop)
    if prompt.messages[-1].role == "assistant":
        found |= CONTINUE_TURN
    if stream:
        found["stream_options"] = {"include_usage": True}
    if "max_tokens" in unsupported:
        found["max_completion_tokens"] = sampling.max_tokens
    return {name: value for name, value in found.items() if name not in unsupported}
