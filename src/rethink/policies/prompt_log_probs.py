"""Log-probs of given tokens, read from a server's log-probs of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rethink.errors import UserError
from rethink.types import Sample

REFUSED = "this server cannot score these samples: "


def refuse_unscorable(samples: Sequence[Sample]) -> None:
    """Raise UserError for samples that no server can score: those without ids or with a temperature other than 1.

    Servers compute a prompt's log-probs at temperature 1."""
    for sample in samples:
        if not sample.ids and sample.text:
            raise UserError(
                f"a sample of problem {sample.problem.id} has text but no token ids, so it cannot be scored: sample with a "
                "local model or vLLM, which return ids"
            )
        if sample.sampling.temperature != 1:
            raise UserError(
                "servers compute the log-probs of a prompt at temperature 1, but these samples have temperature "
                f"{sample.sampling.temperature:g}: sample at temperature 1, or score them with a local model"
            )


def read_prompt_log_probs(entries: Any, sent: Sequence[int], sample: Sample) -> tuple[float, ...]:
    """Return the log-probs of the last `len(sample.ids)` tokens sent, from vLLM's `prompt_logprobs`.

    `entries` has one {id: {"logprob", "decoded_token"}} per token, and None for the first. Raise UserError if log-probs are
    missing, belong to other ids, or if the server decodes the ids to another text."""
    if not isinstance(entries, list) or len(entries) != len(sent):
        raise UserError(f"{REFUSED}its response has no log-probs of the prompt's tokens; vLLM and SGLang return them")
    found: list[float] = []
    pieces: list[str] = []
    for position in range(len(sent) - len(sample.ids), len(sent)):
        entry = entries[position]
        token = entry.get(str(sent[position])) if isinstance(entry, dict) else None
        if not isinstance(token, dict) or not isinstance(token.get("logprob"), int | float):
            raise UserError(f"{REFUSED}its log-probs belong to other token ids than those sent")
        found.append(float(token["logprob"]))
        if isinstance(token.get("decoded_token"), str):
            pieces.append(token["decoded_token"])
    refuse_other_tokenizer(pieces, sample)
    return tuple(found)


def refuse_other_tokenizer(pieces: Sequence[str], sample: Sample) -> None:
    """Raise UserError if most of the reply's tokens, as the server decodes them, do not occur in the reply's text.

    A few never occur: special tokens and parts of characters."""
    readable = [piece.strip() for piece in pieces if piece.strip() and "\ufffd" not in piece]
    n_foreign = sum(piece not in sample.text for piece in readable)
    if len(readable) > 3 and n_foreign > len(readable) / 2:
        raise UserError(
            f"{REFUSED}it decodes their token ids to another text ({''.join(pieces)[:60]!r}), so its model has another "
            "tokenizer than the model that sampled them"
        )
