"""Divergences between two distributions of each token, without holding the logits of all tokens in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rethink.models.forward.chunked_head import HeadGradients, chunks
from rethink.models.forward.weights import Head, logits
from rethink.objectives import Divergence


class ChunkedDivergence(torch.autograd.Function):
    """The divergence of student and teacher at each token, and the student's log-prob of the token, in float32.

    One chunk of tokens at a time has logits. The backward pass computes them again: peak memory is chunk x V, not T x V.
    Only the student's hidden states and head have gradients, and only through the divergence.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_T_H: Tensor,
        weight_V_H: Tensor,
        bias_V: Tensor | None,
        softcap: float | None,
        dtype: torch.dtype,
        teacher_T_H: Tensor,
        teacher_weight_V_H: Tensor,
        teacher_bias_V: Tensor | None,
        teacher_softcap: float | None,
        teacher_dtype: torch.dtype,
        ids_T: Tensor,
        temperature_T: Tensor,
        how: Divergence,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        """Return divergences [T] and log-probs [T] in nats."""
        head = Head(weight_V_H, bias_V, softcap, dtype).converted()
        teacher_head = Head(teacher_weight_V_H, teacher_bias_V, teacher_softcap, teacher_dtype).converted()
        divergence_T = hidden_T_H.new_empty(len(ids_T), dtype=torch.float32)
        log_probs_T = torch.empty_like(divergence_T)
        for part in chunks(len(ids_T), chunk):
            temperature = temperature_T[part, None]
            student_T_V = logits(hidden_T_H[part], head).div_(temperature)
            chosen_T = student_T_V.gather(-1, ids_T[part, None])[:, 0]
            log_probs_T[part] = chosen_T - student_T_V.logsumexp(-1)
            teacher_T_V = logits(teacher_T_H[part], teacher_head).div_(temperature)
            divergence_T[part] = divergence(student_T_V, teacher_T_V, how)
            del student_T_V, teacher_T_V  # free them before the next chunk
        ctx.save_for_backward(
            hidden_T_H, weight_V_H, bias_V, teacher_T_H, teacher_weight_V_H, teacher_bias_V, temperature_T
        )
        ctx.of_head, ctx.of_teacher = (softcap, dtype), (teacher_softcap, teacher_dtype)
        ctx.how, ctx.chunk = how, chunk
        ctx.mark_non_differentiable(log_probs_T)
        return divergence_T, log_probs_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_T_H, weight_V_H, bias_V, teacher_T_H, teacher_weight_V_H, teacher_bias_V, temperature_T = (
            ctx.saved_tensors
        )
        teacher_head = Head(teacher_weight_V_H, teacher_bias_V, *ctx.of_teacher).converted()
        grad_T = grads[0]
        gradients = HeadGradients(hidden_T_H, Head(weight_V_H, bias_V, *ctx.of_head), ctx.needs_input_grad[1])
        for part in chunks(len(grad_T), ctx.chunk):
            temperature = temperature_T[part, None]
            student_T_V = logits(hidden_T_H[part], gradients.head).div_(temperature)
            teacher_T_V = logits(teacher_T_H[part], teacher_head).div_(temperature)
            slope = _slope(student_T_V, teacher_T_V, ctx.how, grad_T[part]).div_(temperature)
            del student_T_V, teacher_T_V
            gradients.add(part, slope)
            del slope  # free it before the next chunk
        return *gradients.found(), *[None] * 11


def _slope(student_T_V: Tensor, teacher_T_V: Tensor, how: Divergence, grad_T: Tensor) -> Tensor:
    """Return the gradient [T, V] with respect to the student's logits."""
    with torch.enable_grad():
        student_T_V.requires_grad_()
        found_T = divergence(student_T_V, teacher_T_V, how)
    (slope,) = torch.autograd.grad(found_T, student_T_V, grad_T)
    return slope


def divergence(student_T_V: Tensor, teacher_T_V: Tensor, how: Divergence) -> Tensor:
    """Return the divergence [T], in nats, of two tables of logits; formulas in `objectives.Divergence`."""
    s, t = compared_log_probs(student_T_V, teacher_T_V, how)
    if how.kind == "forward":
        return (t.exp() * (t - s)).sum(-1)
    if how.kind == "reverse":
        return (s.exp() * (s - t)).sum(-1)
    m = torch.logaddexp(s, t) - math.log(2)
    return 0.5 * (s.exp() * (s - m)).sum(-1) + 0.5 * (t.exp() * (t - m)).sum(-1)


def compared_log_probs(student_T_V: Tensor, teacher_T_V: Tensor, how: Divergence) -> tuple[Tensor, Tensor]:
    """Return the log-probs [T, K] of both: of all entries, or of the top k and, with a tail, of all others together."""
    if not 0 < how.top_k < student_T_V.shape[-1]:
        return student_T_V.log_softmax(-1), teacher_T_V.log_softmax(-1)
    whose = student_T_V.detach() if how.top_k_of == "student" else teacher_T_V
    top_T_K = whose.topk(how.top_k, dim=-1).indices
    if how.tail:
        return _with_tail(student_T_V, top_T_K), _with_tail(teacher_T_V, top_T_K)
    return student_T_V.gather(-1, top_T_K).log_softmax(-1), teacher_T_V.gather(-1, top_T_K).log_softmax(-1)


def _with_tail(logits_T_V: Tensor, top_T_K: Tensor) -> Tensor:
    """Return the log-probs [T, K + 1] of the top entries, and of all others together.

    The others are summed as they are: 1 minus the top probabilities would be mostly rounding."""
    others_T = logits_T_V.scatter(-1, top_T_K, -math.inf).logsumexp(-1, keepdim=True)
    found = torch.cat([logits_T_V.gather(-1, top_T_K), others_T], dim=-1)
    return found - logits_T_V.logsumexp(-1, keepdim=True)


def token_divergences(
    hidden_T_H: Tensor,
    head: Head,
    teacher_T_H: Tensor,
    teacher_head: Head,
    ids_T: Tensor,
    temperature_T: Tensor,
    how: Divergence,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Return the divergence [T] of student and teacher at each token, and the student's log-probs [T] of the ids."""
    bias = teacher_head.bias
    teacher = teacher_head._replace(weight=teacher_head.weight.detach(), bias=None if bias is None else bias.detach())
    states = (hidden_T_H, *head, teacher_T_H.detach(), *teacher)
    found: tuple[Tensor, Tensor] = ChunkedDivergence.apply(*states, ids_T, temperature_T, how, chunk)
    return found
