"""Divergences between two distributions of each token, without holding the logits of all tokens in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rethink.models.forward.chunked_head import chunked_head
from rethink.models.forward.weights import Head, logits
from rethink.objectives import Divergence


class Divergences:
    """The divergence [T] of student and teacher at each token, and the student's log-prob [T] of the token."""

    def __init__(self, student_T_V: Tensor, teacher_T_V: Tensor, ids_T: Tensor, how: Divergence) -> None:
        self._student_T_V, self._teacher_T_V, self._how = student_T_V, teacher_T_V, how
        chosen_T = student_T_V.gather(-1, ids_T[:, None])[:, 0]
        log_probs_T = chosen_T - student_T_V.logsumexp(-1)
        self.values = divergence(student_T_V, teacher_T_V, how), log_probs_T

    def slope(self, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `FromLogits`: through the divergence only."""
        with torch.enable_grad():
            self._student_T_V.requires_grad_()
            found_T = divergence(self._student_T_V, self._teacher_T_V, self._how)
        (slope_T_V,) = torch.autograd.grad(found_T, self._student_T_V, torch.ones_like(found_T))
        return slope_T_V, grads[0]


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
    """Return the divergence [T] of student and teacher at each token, and the student's log-probs [T] of the ids.

    Only the student's hidden states and head have gradients, and only through the divergence."""

    def read(student_T_V: Tensor, part: slice) -> Divergences:
        teacher_T_V = logits(teacher_T_H[part], teacher_head).div_(temperature_T[part, None])
        return Divergences(student_T_V, teacher_T_V, ids_T[part], how)

    divergence_T, log_probs_T = chunked_head(hidden_T_H, head, temperature_T, read, 1, chunk)
    return divergence_T, log_probs_T
