"""Log-probs of given tokens from what a server says of the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rethink.errors import UserError
from rethink.types import Sample

REFUSED = "this server cannot score these samples: "


def refuse_unscorable(samples: Sequence[Sample]) -> None:
    """Raise UserError for samples that no server can score: those without ids, and those of another temperature than 1,
    since servers give the log-probs of a prompt at temperature 1 alone."""
    for sample in samples:
        if not sample.ids and sample.text:
            raise UserError(
                f"a sample of problem {sample.problem.id} has a text but no token ids to score: score samples of a local "
                "model or of vLLM, whose ids are known"
            )
        if sample.sampling.temperature != 1:
            raise UserError(
                "servers give the log-probs of a prompt's tokens at temperature 1, but these samples have temperature "
                f"{sample.sampling.temperature:g}: sample at temperature 1, or score them with a local model"
            )


def read_prompt_log_probs(entries: Any, sent: Sequence[int], sample: Sample) -> tuple[float, ...]:
    """Return the log-probs of the last `len(sample.ids)` tokens sent, from vLLM's `prompt_logprobs`: per token a dictionary
    of {id: {"logprob", "decoded_token"}}, None for the first.

    Raises UserError where there are none, where they belong to other ids, or where the ids mean another text there."""
    if not isinstance(entries, list) or len(entries) != len(sent):
        raise UserError(f"{REFUSED}its answer has no log-probs of the prompt's tokens; vLLM and SGLang give them")
    found: list[float] = []
    pieces: list[str] = []
    for position in range(len(sent) - len(sample.ids), len(sent)):
        entry = entries[position]
        token = entry.get(str(sent[position])) if isinstance(entry, dict) else None
        if not isinstance(token, dict) or not isinstance(token.get("logprob"), int | float):
            raise UserError(f"{REFUSED}the log-probs that it gives belong to other token ids than those that were sent")
        found.append(float(token["logprob"]))
        if isinstance(token.get("decoded_token"), str):
            pieces.append(token["decoded_token"])
    refuse_other_tokenizer(pieces, sample)
    return tuple(found)


def refuse_other_tokenizer(pieces: Sequence[str], sample: Sample) -> None:
    """Raise UserError where most of the reply's tokens, as the server writes them, do not occur in the reply's text.

    Some never do: special tokens, and parts of characters."""
    readable = [piece.strip() for piece in pieces if piece.strip() and "\ufffd" not in piece]
    n_foreign = sum(piece not in sample.text for piece in readable)
    if len(readable) > 3 and n_foreign > len(readable) / 2:
        raise UserError(
            f"{REFUSED}it reads their token ids as another text ({''.join(pieces)[:60]!r}), so that its model has another "
            "tokenizer than the one that sampled them"
        )
