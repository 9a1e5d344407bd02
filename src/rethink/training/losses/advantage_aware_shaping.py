"""Advantage-aware shaping of forced tokens (ThinkTuning); formulas in `objectives.AdvantageAwareShaping`.

Tokens that the policy chose take the clip, and so do forced ones under the guard; see `losses.clip` for all else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.objectives import AdvantageAwareShaping, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.clip import TokenLosses, clipped, importance, log_ratios, policy_gradient
from rethink.training.micro_batch import MicroBatch


def shaped_loss(micro: MicroBatch, log_probs_T: Tensor, part: PolicyGradient, settings: LossSettings) -> LossOutput:
    """Return the shaped loss on forced tokens and the clipped one on the others."""
    how = part.surrogate
    assert isinstance(how, AdvantageAwareShaping)
    shaped_T = is_shaped(log_probs_T, micro.advantage_T, micro.forced_T, how)
    log_ratio_T = log_ratios(micro, log_probs_T, how.clip, ~shaped_T)
    tokens = shaped(log_probs_T, log_ratio_T, micro.advantage_T, shaped_T, how)
    importance_T = importance(micro, how.clip, ~shaped_T, settings)
    return policy_gradient(micro, log_probs_T, tokens, importance_T, part, settings)


def is_shaped(log_probs_T: Tensor, advantage_T: Tensor, forced_T: Tensor, how: AdvantageAwareShaping) -> Tensor:
    """Return which tokens [T] are shaped."""
    if how.gamma == "none":
        return torch.zeros_like(forced_T)
    return forced_T & ~((advantage_T < 0) & (log_probs_T.detach().exp() < how.guard))


def shaped(
    log_probs_T: Tensor, log_ratio_T: Tensor, advantage_T: Tensor, shaped_T: Tensor, how: AdvantageAwareShaping
) -> TokenLosses:
    """Return the losses of tokens, shaped where `shaped_T` is True."""
    tokens = clipped(log_ratio_T, advantage_T, how.clip)
    if how.gamma == "none":
        return tokens
    if how.gamma == "constant":
        p_T = log_probs_T.exp()
        loss_T = -advantage_T * p_T / (p_T + how.strength)
    else:
        coefficient_T = coefficient(log_probs_T.detach().exp(), advantage_T, how)
        loss_T = -advantage_T * coefficient_T * (log_probs_T - log_probs_T.detach()).exp()
    low_T, high_T = tokens.clipped_low_T & ~shaped_T, tokens.clipped_high_T & ~shaped_T
    return TokenLosses(torch.where(shaped_T, loss_T, tokens.loss_T), tokens.ratio_T, low_T, high_T)


def coefficient(p_T: Tensor, advantage_T: Tensor, how: AdvantageAwareShaping) -> Tensor:
    """Return c = p / (p + gamma), with the released code's bounds on the denominator, and at most the cap."""
    share_T = (advantage_T / 4).clamp(-1, 1) if how.gamma == "aware" else torch.ones_like(p_T)
    below_T = p_T - how.strength * share_T
    below_T = torch.where(below_T < 0, p_T / 1.0001, torch.where(below_T > 1, p_T / 0.9999, below_T))
    return torch.where(p_T > 0, p_T / below_T, 1).clamp(max=how.cap)
