"""PPO's clipped surrogate, with ratios per token or per sequence; formulas in `objectives.Clip`."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.objectives import Clip, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.importance import importance_weights
from rethink.training.losses.policy_gradient import MAX_LOG_RATIO, TokenLosses, policy_gradient
from rethink.training.micro_batch import MicroBatch


def clip_loss(micro: MicroBatch, log_probs_T: Tensor, part: PolicyGradient, settings: LossSettings) -> LossOutput:
    """Return the clipped surrogate loss of all trained tokens."""
    clip = part.surrogate
    assert isinstance(clip, Clip)
    all_T = torch.ones_like(micro.forced_T)
    tokens = clipped_surrogate(log_ratios(micro, log_probs_T, clip, all_T), micro.advantage_T, clip)
    return policy_gradient(micro, log_probs_T, tokens, importance_weights(micro, settings), part, settings)


def log_ratios(micro: MicroBatch, log_probs_T: Tensor, clip: Clip, clipped_T: Tensor) -> Tensor:
    """Return log rho [T]. For sequences it is the mean over the sample's tokens in `clipped_T`."""
    log_ratio_T = log_probs_T - micro.old_T
    if clip.importance_sampling_level == "token":
        return log_ratio_T
    return micro.means_by_sample(log_ratio_T.detach(), clipped_T) + (log_probs_T - log_probs_T.detach())


def clipped_surrogate(log_ratio_T: Tensor, advantage_T: Tensor, clip: Clip) -> TokenLosses:
    """Return max(-A rho, -A clip(rho)), for A < 0 at most -A dual_clip."""
    ratio_T = log_ratio_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain_T = -advantage_T * ratio_T
    bounded_T = -advantage_T * ratio_T.clamp(1 - clip.low, 1 + clip.high)
    loss_T = torch.maximum(plain_T, bounded_T)
    if clip.dual_clip is not None:
        loss_T = torch.where(advantage_T < 0, torch.minimum(loss_T, -advantage_T * clip.dual_clip), loss_T)
    ratio_T = ratio_T.detach()
    low_T = (advantage_T < 0) & (ratio_T < 1 - clip.low)
    high_T = (advantage_T > 0) & (ratio_T > 1 + clip.high)
    return TokenLosses(loss_T, ratio_T, low_T, high_T)
