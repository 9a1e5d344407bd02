"""The soft gate of ratios (SAPO); formulas in `objectives.SAPO`."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.objectives import SAPO, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.importance import importance_weights
from rethink.training.losses.policy_gradient import MAX_LOG_RATIO, TokenLosses, policy_gradient
from rethink.training.micro_batch import MicroBatch


def sapo_loss(micro: MicroBatch, log_probs_T: Tensor, part: PolicyGradient, settings: LossSettings) -> LossOutput:
    """Return the loss of all trained tokens."""
    sapo = part.surrogate
    assert isinstance(sapo, SAPO)
    tokens = gated_surrogate(log_probs_T - micro.old_T, micro.advantage_T, sapo)
    return policy_gradient(micro, log_probs_T, tokens, importance_weights(micro, settings), part, settings)


def gated_surrogate(log_ratio_T: Tensor, advantage_T: Tensor, sapo: SAPO) -> TokenLosses:
    """Return -A (4 / tau) sigmoid(tau (rho - 1)). No token is clipped."""
    ratio_T = log_ratio_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    tau_T = torch.where(advantage_T > 0, sapo.tau_pos, sapo.tau_neg)
    # sigmoid(x) as 1 - sigmoid(-x): the derivative s (1 - s) keeps its digits where rho is large and s is close to 1.
    gate_T = 4 / tau_T * (1 - torch.sigmoid(tau_T * (1 - ratio_T)))
    none_T = torch.zeros_like(advantage_T, dtype=torch.bool)
    return TokenLosses(-advantage_T * gate_T, ratio_T.detach(), none_T, none_T)
