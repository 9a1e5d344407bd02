"""Log-probs of given tokens and entropies of the distributions that they were sampled from, from the same logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rethink.models.forward.chunked_head import chunked_head
from rethink.models.forward.weights import Head


class LogProbsAndEntropies:
    """Log-probs [T] of ids, and entropies [T]: -sum over the vocabulary of p log p. The logits become log p, in place.

    The slope of the entropy with respect to the logits is -p (log p + entropy).
    """

    def __init__(self, logits_T_V: Tensor, ids_T: Tensor) -> None:
        self._id_T_1 = ids_T[:, None]
        self._log_p_T_V = logits_T_V.sub_(logits_T_V.logsumexp(-1, keepdim=True))
        log_probs_T = self._log_p_T_V.gather(-1, self._id_T_1)[:, 0]
        self.values = log_probs_T, self._log_p_T_V.exp().mul_(self._log_p_T_V).sum(-1).neg_()

    def slope(self, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `FromLogits`: minus the slope."""
        of_log_prob_T_1, of_entropy_T_1 = (grad[:, None] for grad in grads)
        p_T_V, table_T_V = self._log_p_T_V.exp(), self._log_p_T_V
        table_T_V.add_(self.values[1][:, None]).mul_(of_entropy_T_1).add_(of_log_prob_T_1).mul_(p_T_V)
        table_T_V.scatter_add_(-1, self._id_T_1, -of_log_prob_T_1)
        return table_T_V, -grads[0].new_ones(len(grads[0]))


def token_log_probs_and_entropies(
    hidden_T_H: Tensor, head: Head, ids_T: Tensor, temperature_T: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the log-probs [T] of the ids and the entropies [T] of their distributions (with temperature), in nats."""

    def read(logits_T_V: Tensor, part: slice) -> LogProbsAndEntropies:
        return LogProbsAndEntropies(logits_T_V, ids_T[part])

    log_probs_T, entropy_T = chunked_head(hidden_T_H, head, temperature_T, read, 2, chunk)
    return log_probs_T, entropy_T
