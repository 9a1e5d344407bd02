"""What the forward pass of a micro-batch gives to a loss: log-probs of the trained tokens, by default."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.forward.token_log_probs import token_log_probs
from rethink.training.micro_batch import MicroBatch


def trained_log_probs(weights: Weights, chunk_tokens: int, micro: MicroBatch) -> Tensor:
    """Return the log-probs [T] of the micro-batch's trained tokens under these weights."""
    return token_log_probs(
        trained_states(weights, micro), weights.head, micro.target_T, micro.temperature_T, chunk_tokens
    )


def trained_states(weights: Weights, micro: MicroBatch) -> Tensor:
    """Return the hidden states [T, H] from which the micro-batch's trained tokens are predicted."""
    return weights.hidden(micro.ids_F, micro.positions_F, micro.attend)[micro.place_T]


def only_log_probs(
    weights: Weights, reference: Weights | None, micro: MicroBatch, part: Any, chunk_tokens: int
) -> Tensor:
    """Return the log-probs [T] of the trained tokens: the forward pass of most losses."""
    return trained_log_probs(weights, chunk_tokens, micro)
