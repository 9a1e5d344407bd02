"""Log-probs weighted by clipped ratios (CISPO); formulas in `objectives.CISPO`."""

from __future__ import annotations

from torch import Tensor

from rethink.objectives import CISPO, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.importance import importance_weights
from rethink.training.losses.policy_gradient import MAX_LOG_RATIO, TokenLosses, policy_gradient
from rethink.training.micro_batch import MicroBatch


def cispo_loss(micro: MicroBatch, log_probs_T: Tensor, part: PolicyGradient, settings: LossSettings) -> LossOutput:
    """Return the loss of all trained tokens."""
    cispo = part.surrogate
    assert isinstance(cispo, CISPO)
    tokens = weighted_log_probs(log_probs_T, micro.old_T, micro.advantage_T, cispo)
    return policy_gradient(micro, log_probs_T, tokens, importance_weights(micro, settings), part, settings)


def weighted_log_probs(log_probs_T: Tensor, old_T: Tensor, advantage_T: Tensor, cispo: CISPO) -> TokenLosses:
    """Return -A clip(rho) log p, the weight held constant. Clipped tokens keep their gradient."""
    ratio_T = (log_probs_T.detach() - old_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight_T = ratio_T.clamp(1 - cispo.low, 1 + cispo.high)
    loss_T = -advantage_T * weight_T * log_probs_T
    return TokenLosses(loss_T, ratio_T, ratio_T < 1 - cispo.low, ratio_T > 1 + cispo.high)
