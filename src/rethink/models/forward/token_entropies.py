"""Entropies of the distributions that tokens were sampled from, without holding the logits of all tokens in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rethink.models.forward.chunked_head import HeadGradients, chunks
from rethink.models.forward.weights import Head, logits


class TokenEntropies(torch.autograd.Function):
    """-sum over the vocabulary of p log p, with p = softmax((hidden @ weight.T + bias) / temperature), in float32, one
    chunk of tokens at a time.

    The backward pass recomputes each chunk's logits z: the slope with respect to z is -p (log p + entropy). Peak memory is
    chunk x V, not T x V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_T_H: Tensor,
        weight_V_H: Tensor,
        bias_V: Tensor | None,
        softcap: float | None,
        dtype: torch.dtype,
        temperature_T: Tensor,
        chunk: int,
    ) -> Tensor:
        """Return entropies [T] in nats."""
        head = Head(weight_V_H, bias_V, softcap, dtype).converted()
        out_T = hidden_T_H.new_empty(len(hidden_T_H), dtype=torch.float32)
        for part in chunks(len(hidden_T_H), chunk):
            log_p_T_V = logits(hidden_T_H[part], head).div_(temperature_T[part, None]).log_softmax(-1)
            out_T[part] = -(log_p_T_V.exp() * log_p_T_V).sum(-1)
            del log_p_T_V  # free it before the next chunk
        ctx.save_for_backward(hidden_T_H, weight_V_H, bias_V, temperature_T, out_T)
        ctx.softcap, ctx.dtype, ctx.chunk = softcap, dtype, chunk
        return out_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_T_H, weight_V_H, bias_V, temperature_T, entropy_T = ctx.saved_tensors
        head = Head(weight_V_H, bias_V, ctx.softcap, ctx.dtype)
        gradients = HeadGradients(hidden_T_H, head, ctx.needs_input_grad[1])
        for part in chunks(len(hidden_T_H), ctx.chunk):
            scale_T = -grads[0][part] / temperature_T[part]
            log_p_T_V = logits(hidden_T_H[part], gradients.head).div_(temperature_T[part, None]).log_softmax(-1)
            slope = log_p_T_V.exp()
            slope.mul_(log_p_T_V.add_(entropy_T[part, None])).mul_(scale_T[:, None])
            del log_p_T_V
            gradients.add(part, slope)
            del slope  # free it before the next chunk
        return *gradients.found(), None, None, None, None


def token_entropies(hidden_T_H: Tensor, head: Head, temperature_T: Tensor, chunk: int) -> Tensor:
    """Return the entropies [T] in nats of the distributions after these hidden states (with temperature)."""
    out: Tensor = TokenEntropies.apply(hidden_T_H, *head, temperature_T, chunk)
    return out
