"""Advantage-aware shaping of guided tokens (ThinkTuning); formulas in `objectives.Shaping`.

Other tokens are clipped, and so are guided ones below the guard; see `losses.policy_gradient` for everything else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.objectives import AdvantageAwareShaping, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.clip import clipped_surrogate, log_ratios
from rethink.training.losses.importance import importance_weights
from rethink.training.losses.policy_gradient import TokenLosses, policy_gradient
from rethink.training.micro_batch import MicroBatch


def shaped_loss(micro: MicroBatch, log_probs_T: Tensor, part: PolicyGradient, settings: LossSettings) -> LossOutput:
    """Return the shaped loss of guided tokens and the clipped loss of the others."""
    shaping = part.surrogate
    assert isinstance(shaping, AdvantageAwareShaping)
    guided_T = guided_tokens(micro, shaping)
    shaped_T = is_shaped(log_probs_T, micro.advantage_T, guided_T, shaping)
    log_ratio_T = log_ratios(micro, log_probs_T, shaping.clip, ~shaped_T)
    tokens = shaped_surrogate(log_probs_T, log_ratio_T, micro.advantage_T, shaped_T, shaping)
    importance_T = importance_weights(micro, settings, ~shaped_T).where(~shaped_T, 1.0)
    return policy_gradient(micro, log_probs_T, tokens, importance_T, part, settings)


def guided_tokens(micro: MicroBatch, shaping: AdvantageAwareShaping) -> Tensor:
    """Return which tokens [T] are guided: the forced ones, or all tokens of samples that have any."""
    if shaping.guided_scope == "feedback":
        return micro.forced_T
    return micro.means_by_sample(micro.forced_T.float(), torch.ones_like(micro.forced_T)) > 0


def is_shaped(log_probs_T: Tensor, advantage_T: Tensor, guided_T: Tensor, shaping: AdvantageAwareShaping) -> Tensor:
    """Return which tokens [T] are shaped."""
    if shaping.gamma == "none":
        return torch.zeros_like(guided_T)
    return guided_T & ~((advantage_T < 0) & (log_probs_T.detach().exp() < shaping.guard))


def shaped_surrogate(
    log_probs_T: Tensor, log_ratio_T: Tensor, advantage_T: Tensor, shaped_T: Tensor, shaping: AdvantageAwareShaping
) -> TokenLosses:
    """Return the losses of tokens: shaped where `shaped_T` is True, clipped elsewhere."""
    tokens = clipped_surrogate(log_ratio_T, advantage_T, shaping.clip)
    if shaping.gamma == "none":
        return tokens
    if shaping.gamma == "constant":
        p_T = log_probs_T.exp()
        loss_T = -advantage_T * p_T / (p_T + shaping.strength)
    else:
        coefficient_T = coefficient(log_probs_T.detach().exp(), advantage_T, shaping)
        loss_T = -advantage_T * coefficient_T * (log_probs_T - log_probs_T.detach()).exp()
    low_T, high_T = tokens.clipped_low_T & ~shaped_T, tokens.clipped_high_T & ~shaped_T
    return TokenLosses(torch.where(shaped_T, loss_T, tokens.loss_T), tokens.ratio_T, low_T, high_T)


def coefficient(p_T: Tensor, advantage_T: Tensor, shaping: AdvantageAwareShaping) -> Tensor:
    """Return c = p / (p + gamma) [T], at most `cap`, with the released code's bounds on the denominator."""
    share_T = (advantage_T / 4).clamp(-1, 1) if shaping.gamma == "aware" else torch.ones_like(p_T)
    denominator_T = p_T - shaping.strength * share_T
    denominator_T = torch.where(
        denominator_T < 0, p_T / 1.0001, torch.where(denominator_T > 1, p_T / 0.9999, denominator_T)
    )
    return torch.where(p_T > 0, p_T / denominator_T, 1).clamp(max=shaping.cap)
