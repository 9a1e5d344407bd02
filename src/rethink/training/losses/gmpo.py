"""The geometric mean of clipped ratios (GMPO); formulas in `objectives.GMPO`."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.objectives import GMPO, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.importance import importance_weights
from rethink.training.losses.policy_gradient import MAX_LOG_RATIO, TokenLosses, policy_gradient
from rethink.training.micro_batch import MicroBatch


def gmpo_loss(micro: MicroBatch, log_probs_T: Tensor, part: PolicyGradient, settings: LossSettings) -> LossOutput:
    """Return the loss of all trained tokens. All tokens of a reply have the same ratio, with a gradient for each."""
    gmpo = part.surrogate
    assert isinstance(gmpo, GMPO)
    tokens = geometric_surrogate(micro, log_probs_T, gmpo)
    return policy_gradient(micro, log_probs_T, tokens, importance_weights(micro, settings), part, settings)


def geometric_surrogate(micro: MicroBatch, log_probs_T: Tensor, gmpo: GMPO) -> TokenLosses:
    """Return -A times the geometric mean of the reply's clipped ratios."""
    log_ratio_T = (log_probs_T - micro.old_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    low_T = (micro.advantage_T < 0) & (log_ratio_T < -gmpo.low)
    high_T = (micro.advantage_T > 0) & (log_ratio_T > gmpo.high)
    clipped_T = log_ratio_T.masked_fill(low_T, -gmpo.low).masked_fill(high_T, gmpo.high)
    ratio_T = micro.means_by_sample(clipped_T, torch.ones_like(micro.forced_T)).exp()
    return TokenLosses(-micro.advantage_T * ratio_T, ratio_T.detach(), low_T, high_T)
