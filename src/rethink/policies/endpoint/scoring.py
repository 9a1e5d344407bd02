"""Log-probs of given tokens behind an endpoint: ids go to /v1/completions, which says how probable they are."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import openai

from rethink.errors import UserError
from rethink.policies.endpoint.protocol import CONTINUED, Fault, complaint
from rethink.policies.prompt_log_probs import REFUSED, read_prompt_log_probs, refuse_other_tokenizer
from rethink.types import Prompt, Sample


def score_parameters(refused: Set[str]) -> dict[str, Any]:
    """Return what asks for the prompt's log-probs: vLLM's parameter, and OpenAI's older "echo" for other servers."""
    wanted = {"echo": True, "logprobs": 1, "prompt_logprobs": 0, "return_tokens_as_token_ids": True}
    return {name: value for name, value in wanted.items() if name not in refused}


async def log_probs(
    client: openai.AsyncOpenAI,
    model: str,
    headers: Mapping[str, Any],
    sample: Sample,
    prompt: Prompt | None,
    sent: dict[str, Any],
) -> tuple[float, ...] | Fault:
    """Return the log-prob of each id of the sample behind its own prompt, or behind another one.

    Raises UserError where the server gives none, or none of these ids."""
    if not sample.ids:
        return ()
    prompt_ids = sample.prompt_ids if prompt is None else await _tokenized(client, model, headers, prompt)
    ids = [*prompt_ids, *sample.ids]
    found: Any = await client.completions.create(
        model=model, prompt=ids, max_tokens=1, extra_headers=headers, extra_body=sent
    )
    try:
        choice = found.choices[0]
        echoed = choice.logprobs
        entries = getattr(choice, "prompt_logprobs", None)
    except (LookupError, TypeError, AttributeError):
        return Fault("an answer that is no completion", complaint(getattr(found, "error", None))[0] or str(found), 200)
    if entries is not None and "prompt_logprobs" in sent:
        return read_prompt_log_probs(entries, ids, sample)
    return _read_echo(echoed, ids, sample)


def _read_echo(echoed: Any, ids: list[int], sample: Sample) -> tuple[float, ...]:
    """Return the log-probs of the ids by what "echo" repeats: token by token those of the prompt, then of one new token."""
    names = getattr(echoed, "tokens", None)
    numbers = getattr(echoed, "token_logprobs", None)
    if not isinstance(names, list) or not isinstance(numbers, list) or len(names) != len(numbers):
        raise UserError(f"{REFUSED}it gives no log-probs of a prompt's tokens; vLLM and SGLang do")
    if len(names) not in (len(ids), len(ids) + 1):
        raise UserError(f"{REFUSED}it repeats {len(names)} tokens where {len(ids)} were sent")
    found: list[float] = []
    pieces: list[str] = []
    for position in range(len(ids) - len(sample.ids), len(ids)):
        name, number = str(names[position]), numbers[position]
        if (name.startswith("token_id:") and name != f"token_id:{ids[position]}") or not isinstance(
            number, int | float
        ):
            raise UserError(f"{REFUSED}the log-probs that it gives belong to other token ids than those that were sent")
        found.append(float(number))
        pieces.append("" if name.startswith("token_id:") else name)
    refuse_other_tokenizer(pieces, sample)
    return tuple(found)


async def _tokenized(client: openai.AsyncOpenAI, model: str, headers: Mapping[str, Any], prompt: Prompt) -> list[int]:
    """Return the ids of a prompt by the server's own template, from vLLM's /tokenize."""
    url = str(client.base_url).rstrip("/").removesuffix("/v1") + "/tokenize"
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    continued = CONTINUED if prompt.messages[-1].role == "assistant" else {}
    body = {"model": model, "messages": messages, **continued}
    try:
        found: Any = await client.post(url, cast_to=object, body=body, options={"headers": headers})
        return [int(i) for i in found["tokens"]]
    except (openai.NotFoundError, LookupError, TypeError, ValueError):
        pass
    raise UserError(
        f"{REFUSED}other prompts than their own need the server's /tokenize, which vLLM has and this one lacks"
    )
