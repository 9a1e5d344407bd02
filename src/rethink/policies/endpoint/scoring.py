"""Log-probs of given token ids under an endpoint's model, from /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import openai

from rethink.errors import UserError
from rethink.images import has_images
from rethink.policies.endpoint.faults import Fault, parse_error
from rethink.policies.endpoint.messages import wire_message
from rethink.policies.endpoint.protocol import CONTINUE_TURN
from rethink.policies.prompt_log_probs import REFUSED, read_prompt_log_probs, refuse_other_tokenizer
from rethink.types import Prompt, Sample


def score_parameters(unsupported: Set[str]) -> dict[str, Any]:
    """Return the parameters that request a prompt's log-probs: vLLM's, and OpenAI's older "echo" for other servers."""
    found = {"echo": True, "logprobs": 1, "prompt_logprobs": 0, "return_tokens_as_token_ids": True}
    return {name: value for name, value in found.items() if name not in unsupported}


async def completion_log_probs(
    client: openai.AsyncOpenAI,
    model: str,
    headers: Mapping[str, Any],
    sample: Sample,
    prompt: Prompt | None,
    sent: dict[str, Any],
) -> tuple[float, ...] | Fault:
    """Return the log-prob of each id of the sample after its own prompt, or after another `prompt`.

    Raise UserError if the server returns no log-probs, or log-probs of other ids."""
    if not sample.ids:
        return ()
    prompt_has_images = has_images(sample.prompt_ids) if prompt is None else bool(prompt.images)
    if prompt_has_images:
        raise UserError(
            f"{REFUSED}their prompts have images, and ids of prompts are only tokens; use a model on this machine"
        )
    prompt_ids = sample.prompt_ids if prompt is None else await _prompt_ids(client, model, headers, prompt)
    ids = [*prompt_ids, *sample.ids]
    completion: Any = await client.completions.create(
        model=model, prompt=ids, max_tokens=1, extra_headers=headers, extra_body=sent
    )
    try:
        choice = completion.choices[0]
        echoed = choice.logprobs
        entries = getattr(choice, "prompt_logprobs", None)
    except (LookupError, TypeError, AttributeError):
        return Fault("not a completion", parse_error(getattr(completion, "error", None))[0] or str(completion), 200)
    if entries is not None and "prompt_logprobs" in sent:
        return read_prompt_log_probs(entries, ids, sample)
    return _read_echo(echoed, ids, sample)


def _read_echo(echoed: Any, ids: list[int], sample: Sample) -> tuple[float, ...]:
    """Return the log-probs of the ids from an echo, which lists the tokens of the prompt, then one new token."""
    names = getattr(echoed, "tokens", None)
    numbers = getattr(echoed, "token_logprobs", None)
    if not isinstance(names, list) or not isinstance(numbers, list) or len(names) != len(numbers):
        raise UserError(f"{REFUSED}it returns no log-probs of a prompt's tokens; vLLM and SGLang do")
    if len(names) not in (len(ids), len(ids) + 1):
        raise UserError(f"{REFUSED}it echoes {len(names)} tokens, but {len(ids)} were sent")
    found: list[float] = []
    pieces: list[str] = []
    for position in range(len(ids) - len(sample.ids), len(ids)):
        name, number = str(names[position]), numbers[position]
        if (name.startswith("token_id:") and name != f"token_id:{ids[position]}") or not isinstance(
            number, int | float
        ):
            raise UserError(f"{REFUSED}its log-probs belong to other token ids than were sent")
        found.append(float(number))
        pieces.append("" if name.startswith("token_id:") else name)
    refuse_other_tokenizer(pieces, sample)
    return tuple(found)


async def _prompt_ids(client: openai.AsyncOpenAI, model: str, headers: Mapping[str, Any], prompt: Prompt) -> list[int]:
    """Return the ids of a prompt with the server's chat template, from vLLM's /tokenize."""
    url = str(client.base_url).rstrip("/").removesuffix("/v1") + "/tokenize"
    messages = list(map(wire_message, prompt.messages))
    continued = CONTINUE_TURN if prompt.messages[-1].role == "assistant" else {}
    body = {"model": model, "messages": messages, **continued}
    try:
        answer: Any = await client.post(url, cast_to=object, body=body, options={"headers": headers})
        return [int(i) for i in answer["tokens"]]
    except (openai.NotFoundError, LookupError, TypeError, ValueError):
        pass
    raise UserError(f"{REFUSED}scoring them after other prompts needs /tokenize, which vLLM has and this server lacks")
