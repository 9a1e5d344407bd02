"""Log-probs of given tokens, without holding the logits of all tokens in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rethink.models.forward.chunked_head import HeadGradients, chunks
from rethink.models.forward.weights import Head, logits


class TokenLogProbs(torch.autograd.Function):
    """log softmax((hidden @ weight.T + bias) / temperature) at given ids, in float32, one chunk of tokens at a time.

    The backward pass recomputes each chunk's logits: peak memory is chunk x V, not T x V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_T_H: Tensor,
        weight_V_H: Tensor,
        bias_V: Tensor | None,
        softcap: float | None,
        dtype: torch.dtype,
        ids_T: Tensor,
        temperature_T: Tensor,
        chunk: int,
    ) -> Tensor:
        """Return log-probs [T] in nats."""
        head = Head(weight_V_H, bias_V, softcap, dtype).converted()
        out_T = hidden_T_H.new_empty(len(ids_T), dtype=torch.float32)
        for part in chunks(len(ids_T), chunk):
            logits_T_V = logits(hidden_T_H[part], head).div_(temperature_T[part, None])
            chosen = logits_T_V.gather(-1, ids_T[part, None])[:, 0]
            out_T[part] = chosen - logits_T_V.logsumexp(-1)
            del logits_T_V  # free it before the next chunk
        ctx.save_for_backward(hidden_T_H, weight_V_H, bias_V, ids_T, temperature_T)
        ctx.softcap, ctx.dtype, ctx.chunk = softcap, dtype, chunk
        return out_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_T_H, weight_V_H, bias_V, ids_T, temperature_T = ctx.saved_tensors
        head = Head(weight_V_H, bias_V, ctx.softcap, ctx.dtype)
        grad_T = grads[0]
        gradients = HeadGradients(hidden_T_H, head, ctx.needs_input_grad[1])
        for part in chunks(len(ids_T), ctx.chunk):
            scale = (grad_T[part] / temperature_T[part])[:, None]
            logits_T_V = logits(hidden_T_H[part], gradients.head).div_(temperature_T[part, None])
            slope = logits_T_V.softmax(-1)
            del logits_T_V
            slope.mul_(-scale).scatter_add_(-1, ids_T[part, None], scale)
            gradients.add(part, slope)
            del slope  # free it before the next chunk
        return *gradients.found(), None, None, None, None, None


def token_log_probs(
    hidden_T_H: Tensor,
    head: Head,
    ids_T: Tensor,
    temperature_T: Tensor,
    chunk: int,
) -> Tensor:
    """Return the log-probs [T] in nats of the ids under the distribution that they were sampled from (with temperature)."""
    out: Tensor = TokenLogProbs.apply(hidden_T_H, *head, ids_T, temperature_T, chunk)
    return out
