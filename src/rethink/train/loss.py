"""Token losses on flat vectors, and log-probs whose memory does not grow with vocabulary times tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rethink.objectives import Clip, Shaped

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this, as in ThinkTwice's released code, so that a ratio never overflows."""


class TokenLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias) / temperature at given ids, in float32, one chunk of tokens at a time.

    The backward pass computes each chunk's logits again instead of keeping them: peak memory is chunk x V, not T x V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_T_H: Tensor,
        weight_V_H: Tensor,
        bias_V: Tensor | None,
        ids_T: Tensor,
        temperature_T: Tensor,
        chunk: int,
    ) -> Tensor:
        """Log-probs [T] in nats."""
        out_T = hidden_T_H.new_empty(len(ids_T), dtype=torch.float32)
        for part in _chunks(len(ids_T), chunk):
            logits = _logits(hidden_T_H[part], weight_V_H, bias_V, temperature_T[part])
            chosen = logits.gather(-1, ids_T[part, None])[:, 0]
            out_T[part] = chosen - logits.logsumexp(-1)
            del logits  # not beside the next chunk's
        ctx.save_for_backward(hidden_T_H, weight_V_H, bias_V, ids_T, temperature_T)
        ctx.chunk = chunk
        return out_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_T_H, weight_V_H, bias_V, ids_T, temperature_T = ctx.saved_tensors
        grad_T = grads[0]
        weight = weight_V_H.float()
        grad_hidden = torch.empty_like(hidden_T_H)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # a frozen head gets none
        grad_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for part in _chunks(len(ids_T), ctx.chunk):
            scale = (grad_T[part] / temperature_T[part])[:, None]
            slope = _logits(hidden_T_H[part], weight_V_H, bias_V, temperature_T[part]).softmax(-1)
            slope.mul_(-scale).scatter_add_(-1, ids_T[part, None], scale)
            grad_hidden[part] = (slope @ weight).to(grad_hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(slope.T, hidden_T_H[part].float())
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            del slope  # not beside the next chunk's logits
        bias_out = None if grad_bias is None else grad_bias.to(bias_V.dtype)
        weight_out = None if grad_weight is None else grad_weight.to(weight_V_H.dtype)
        return grad_hidden, weight_out, bias_out, None, None, None


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor) -> Tensor:
    logits = torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
    return logits.div_(temperature[:, None])


def token_log_probs(
    hidden_T_H: Tensor,
    head: tuple[Tensor, Tensor | None],
    ids_T: Tensor,
    temperature_T: Tensor,
    chunk: int = 4096,
) -> Tensor:
    """Log-probs [T] in nats of the given ids, of the distribution they were sampled from (temperature included)."""
    weight, bias = head
    out: Tensor = TokenLogProbs.apply(hidden_T_H, weight, bias, ids_T, temperature_T, chunk)
    return out


class Surrogate(NamedTuple):
    """Loss per token [T], and what the monitors want to know of it."""

    loss_T: Tensor
    ratio_T: Tensor
    clipped_low_T: Tensor
    clipped_high_T: Tensor


def clipped(log_probs_T: Tensor, old_T: Tensor, weights_T: Tensor, clip: Clip) -> Surrogate:
    """The clipped surrogate per token, unweighted by any denominator; formula in `types.Clip`."""
    ratio = (log_probs_T - old_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = -weights_T * ratio
    bounded = -weights_T * ratio.clamp(1 - clip.low, 1 + clip.high)
    loss = torch.maximum(plain, bounded)
    if clip.dual is not None:
        loss = torch.where(weights_T < 0, torch.minimum(loss, -weights_T * clip.dual), loss)
    with torch.no_grad():
        low = (weights_T < 0) & (ratio < 1 - clip.low)
        high = (weights_T > 0) & (ratio > 1 + clip.high)
    return Surrogate(loss, ratio.detach(), low, high)


def shaped(log_probs_T: Tensor, old_T: Tensor, weights_T: Tensor, forced_T: Tensor, how: Shaped) -> Surrogate:
    """The shaped loss on forced tokens, the clipped one on the others; formulas in `types.Shaped`."""
    ordinary = clipped(log_probs_T, old_T, weights_T, how.clip)
    if how.gamma == "none":
        return ordinary
    p = log_probs_T.detach().exp()
    here = forced_T & ~((weights_T < 0) & (p < how.guard))
    if how.gamma == "constant":
        loss = -weights_T * log_probs_T.exp() / (log_probs_T.exp() + how.strength)
    else:
        loss = -weights_T * _coefficient(p, weights_T, how) * (log_probs_T - log_probs_T.detach()).exp()
    nowhere = torch.zeros_like(here)
    low, high = (torch.where(here, nowhere, c) for c in (ordinary.clipped_low_T, ordinary.clipped_high_T))
    return Surrogate(torch.where(here, loss, ordinary.loss_T), ordinary.ratio_T, low, high)


def _coefficient(p_T: Tensor, weights_T: Tensor, how: Shaped) -> Tensor:
    """p / (p + gamma), with the released code's bounds on the denominator, and at most the cap."""
    share = (weights_T / 4).clamp(-1, 1) if how.gamma == "aware" else torch.ones_like(p_T)
    below = p_T - how.strength * share
    below = torch.where(below < 0, p_T / 1.0001, torch.where(below > 1, p_T / 0.9999, below))
    return torch.where(p_T > 0, p_T / below, 1).clamp(max=how.cap)


def kl_to_initial(log_probs_T: Tensor, initial_T: Tensor) -> Tensor:
    """exp(d) - d - 1 per token, d = log p_initial - log p (Schulman's k3 estimate of KL(policy || initial))."""
    d = (initial_T - log_probs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.exp() - d - 1


def preference(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """DPO's loss per pair from summed log-ratios to the initial model: -log sigmoid(beta (chosen - rejected))."""
    return -torch.nn.functional.logsigmoid(beta * (chosen_P - rejected_P))
