"""Log-probs of given tokens, without holding the logits of all tokens in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rethink.models.forward.chunked_head import chunked_head
from rethink.models.forward.weights import Head


class LogProbs:
    """Log-probs [T] of ids. The logits z become exp(z - max z), in place, which are the probabilities times a row's sum.

    The slope with respect to z is 1 for the id, minus the probabilities.
    """

    def __init__(self, logits_T_V: Tensor, ids_T: Tensor) -> None:
        self._id_T_1 = ids_T[:, None]
        table_T_V = logits_T_V.sub_(logits_T_V.amax(-1, keepdim=True))
        chosen_T_1 = table_T_V.gather(-1, self._id_T_1)
        self._exp_T_V = table_T_V.exp_()
        self._sum_T_1 = self._exp_T_V.sum(-1, keepdim=True)
        self.values = ((chosen_T_1 - self._sum_T_1.log())[:, 0],)

    def slope(self, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `FromLogits`: minus the slope, times the sum."""
        table_T_V = self._exp_T_V.scatter_add_(-1, self._id_T_1, -self._sum_T_1)
        return table_T_V, -grads[0] / self._sum_T_1[:, 0]


def token_log_probs(hidden_T_H: Tensor, head: Head, ids_T: Tensor, temperature_T: Tensor, chunk: int) -> Tensor:
    """Return the log-probs [T] in nats of the ids under the distribution that they were sampled from (with temperature)."""

    def read(logits_T_V: Tensor, part: slice) -> LogProbs:
        return LogProbs(logits_T_V, ids_T[part])

    (out_T,) = chunked_head(hidden_T_H, head, temperature_T, read, 1, chunk)
    return out_T
