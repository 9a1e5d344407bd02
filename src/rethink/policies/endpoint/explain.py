"""Messages about failed requests that say what to do."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import openai

from rethink.policies.endpoint.faults import Fault, cannot_continue, named_parameter
from rethink.policies.endpoint.protocol import FROM_SETTINGS

MODELS_S = 10.0
"""The seconds that a list of a server's models may take; it is only for a message."""

N_SHOWN = 8


def explain(fault: Fault, sent: Mapping[str, Any], url: str, key_hint: str) -> str:
    """Return what the server said, and what to do. `key_hint` says what to do about the key."""
    if fault.is_transient:
        attempts = "1 attempt" if fault.n_attempts == 1 else f"{fault.n_attempts} attempts"
        return f"gave up on {url} after {attempts}: {fault.kind}: {fault.message}"
    hint = ""
    name = named_parameter(fault, FROM_SETTINGS) if fault.blames_request else None
    if cannot_continue(sent, fault):
        hint = "; it cannot continue an assistant turn: use vLLM, SGLang or a local model"
    elif fault.status in (401, 403):
        hint = f"; {key_hint}"
    elif fault.is_overlong_with_reply or name:
        name = "max_tokens" if fault.is_overlong_with_reply or name == "max_completion_tokens" else name
        hint = "" if name == "seed" else f"; see sampling.{name} (in evaluations evaluation.sampling.{name})"
    return f"{url} refuses a request: {fault.kind}: {fault.message}{hint}"


async def served_models(client: openai.AsyncOpenAI, headers: Mapping[str, Any], model: str) -> str:
    """Return a hint about the model's name, with the closest of the names that the server lists, if it lists any."""
    names: list[str] = []
    try:
        async with asyncio.timeout(MODELS_S):
            async for entry in client.models.list(extra_headers=headers):
                if isinstance(entry.id, str):
                    names.append(entry.id)
    except (openai.OpenAIError, TimeoutError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        names = []
    if not names:
        return f"; check the model's name, {model!r}, and the URL"
    if model in names:
        return f"; the server lists {model!r}, so check the URL"
    near = difflib.get_close_matches(model, names, n=1, cutoff=0.4)
    question = f" (did you mean {near[0]}?)" if near else ""
    return f"; it does not serve {model!r}{question}, but {shorten_list(names)}"


def shorten_list(names: Sequence[str]) -> str:
    """Return the first names, separated by commas, and how many more there are."""
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return ", ".join(name[:100] for name in names[:N_SHOWN]) + more
