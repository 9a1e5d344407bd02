"""Requests to a vLLM server and the parsing of its answers, without sending. Written against vLLM 0.32."""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import httpx2

from rethink.errors import UserError
from rethink.policies.endpoint.faults import Fault, parse_error
from rethink.policies.prompt_log_probs import read_prompt_log_probs
from rethink.policies.token_policy import Generation
from rethink.policies.vllm.wire_prompt import WirePrompt
from rethink.seeds import stable_hash
from rethink.types import Sample, Sampling

GENERATE = "/inference/v1/generate"
"""Token ids in, token ids out; served with --enable-scale-out or --tokens-only."""

NO_LOG_PROB = -9999.0
"""The value that vLLM sends for a missing log-prob."""

WRONG_WEIGHTS = "wrong weights"
"""The kind of fault of a server that was restarted, or that another run uses."""

ADAPTER = "adapter-"
"""The beginning of labels of adapters; other labels are of weights that have replaced the base model's."""

HOW_TO_START = (
    "start it like this: VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs "
    '--weight-transfer-config \'{"backend": "nccl"}\' (docs/vllm.md)'
)


HOW_TO_START_WITH_ADAPTERS = (
    "start it on this machine with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora --max-lora-rank RANK "
    "--lora-target-modules MODULES, or set sampler.transfer=merged (docs/vllm.md)"
)


@dataclass(frozen=True)
class ServerInfo:
    """A server's configuration. `model` is the name or folder of its model; `backend` is its weight transfer backend, "" if
    it has none; `lora_dtype` is the dtype of adapters, "" if it loads none, and `lora_modules` are the layers that use
    them, None if all do."""

    model: str
    backend: str
    logprobs_mode: str
    max_model_len: int
    dtype: str
    world_size: int
    sleeps: bool
    lora_dtype: str
    lora_modules: frozenset[str] | None


def server_url(url: str) -> str:
    """Return http://host:port, without a trailing /v1. Raise UserError if the URL is not one of a server."""
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path.rstrip("/") not in ("", "/v1"):
        raise UserError(f"sampler.urls: {url!r} is not the URL of a vLLM server; write it like http://host:8000")
    return str(parsed.copy_with(path="/")).rstrip("/")


def generate_body(prompt: WirePrompt, seed: int, index: int, sampling: Sampling, stop_ids: Set[int]) -> dict[str, Any]:
    """Return the request for one sample, from the base model.

    Replies end only at our stop ids, which are part of the reply; `logprobs` 0 asks for those of the sampled tokens."""
    return {
        **prompt.body,
        "sampling_params": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "seed": stable_hash(seed, index, "vllm") >> 1,  # vLLM takes signed 64-bit numbers
            "stop_token_ids": sorted(stop_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
        },
    }


def with_adapter(label: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the request to the weights with this label: an adapter is the model of that name."""
    return {**body, "model": label} if label.startswith(ADAPTER) else body


def score_body(prompt: WirePrompt) -> dict[str, Any]:
    """Return the request for the log-probs of given ids; vLLM generates at least one token after them."""
    return {
        **prompt.body,
        "sampling_params": {"max_tokens": 1, "prompt_logprobs": 0, "logprobs": 0, "detokenize": False},
    }


def read_generated(
    label: str, prompt: WirePrompt, sampling: Sampling, stop_ids: Set[int], status: int, content: bytes
) -> Generation | Fault:
    """Return the reply in an answer if it is complete and of the weights with this label, or else a Fault."""
    payload = _read(label, prompt, status, content)
    if isinstance(payload, Fault):
        return payload
    try:
        choice = payload["choices"][0]
        ids = [int(i) for i in choice["token_ids"]]
        log_probs = [float(c["logprob"]) for c in choice["logprobs"]["content"]]
        reason = choice["finish_reason"]
    except (LookupError, TypeError, ValueError):
        return Fault("an answer without a reply", str(payload)[:500], 200)
    is_complete = reason == ("stop" if ids and ids[-1] in stop_ids else "length") and len(ids) <= sampling.max_tokens
    if not is_complete or len(log_probs) != len(ids) or min(log_probs, default=NO_LOG_PROB) <= NO_LOG_PROB:
        summary = f"{len(ids)} ids, {len(log_probs)} log-probs, finish reason {reason!r}"
        return Fault("an incomplete reply", summary, 200)
    # A greedy choice has probability 1; vLLM returns the log-probs at temperature 1.
    return Generation(ids, [0.0] * len(ids) if sampling.temperature == 0 else log_probs, reason == "stop")


def read_scored(
    label: str, prompt: WirePrompt, sample: Sample, status: int, content: bytes
) -> tuple[float, ...] | Fault:
    """Return the log-probs of the sample's ids, at the end of the prompt, under the weights with this label, or else a
    Fault."""
    payload = _read(label, prompt, status, content)
    if isinstance(payload, Fault):
        return payload
    return read_prompt_log_probs(payload.get("prompt_logprobs"), prompt.computed, sample)


def _read(label: str, prompt: WirePrompt, status: int, content: bytes) -> dict[str, Any] | Fault:
    """Return an answer's JSON if all tokens are of the weights with this label, or else a Fault.

    Raise UserError if vLLM has computed another prompt."""
    try:
        payload = json.loads(content)
    except ValueError:
        payload = None
    if status == 404 and label.startswith(ADAPTER):
        return Fault(WRONG_WEIGHTS, f"it no longer has the adapter {label!r}", 200)
    if status != 200:
        return Fault(f"HTTP {status}", parse_error(payload)[0] or content.decode("utf-8", "replace")[:500], status)
    try:
        spans = payload["choices"][0]["weight_versions"] or ()
        versions = {span["version"] for span in spans}
    except (LookupError, TypeError):
        return Fault("an answer without a reply", str(payload)[:500], 200)
    if versions != {label}:
        return Fault(WRONG_WEIGHTS, f"it sampled with {sorted(versions)}, not {label!r}", 200)
    prompt.require(payload)
    return dict(payload)


def read_info(payload: Any, world_size: Any) -> ServerInfo:
    """Return the configuration. Raise LookupError, TypeError or ValueError if it is not that of vLLM 0.32."""
    config = payload["vllm_config"]
    model, transfer, lora = config["model_config"], config["weight_transfer_config"], config["lora_config"]
    return ServerInfo(
        model=str(model["model"]),
        backend="" if transfer is None else str(transfer["backend"]),
        logprobs_mode=str(model["logprobs_mode"]),
        max_model_len=int(model["max_model_len"]),
        dtype=str(model["dtype"]).removeprefix("torch."),
        world_size=int(world_size["world_size"]),
        sleeps=bool(model["enable_sleep_mode"]),
        lora_dtype="" if lora is None else str(lora["lora_dtype"]).removeprefix("torch."),
        lora_modules=None if lora is None or lora["target_modules"] is None else frozenset(lora["target_modules"]),
    )
