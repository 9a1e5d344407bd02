"""Importance weights for samples whose log-probs under the trainer's old weights differ from the sampler's.

The weight of a token is w = p_old / p_sampler, of the token, or the product over the tokens of its reply. The modes are
"token_truncate" (truncated importance sampling, TIS: w is clipped to [clip_min, clip_max]), "token_mask" (masked
importance sampling, MIS: w is 0 outside of these bounds; IcePop, arXiv 2510.18855, has 0.5 and 5), "sequence_truncate",
"sequence_mask", and "none" (w is 1). Masked tokens stay in the denominator. Weights are held constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.training.losses.base import LossSettings
from rethink.training.micro_batch import MicroBatch

MAX_LOG_WEIGHT = 20.0
"""Bound on the absolute value of log-weights: products over long replies never overflow."""


def importance_weights(micro: MicroBatch, settings: LossSettings, counts_T: Tensor | None = None) -> Tensor:
    """Return the weights [T]. `counts_T` are the tokens that a reply's product includes; by default all."""
    log_weight_T = micro.old_T - micro.sampler_T
    if settings.importance_sampling_mode == "none":
        return torch.ones_like(log_weight_T)
    if settings.importance_sampling_mode in ("sequence_truncate", "sequence_mask"):
        log_weight_T = micro.sums_by_sample(
            log_weight_T, torch.ones_like(micro.forced_T) if counts_T is None else counts_T
        )
    weight_T = log_weight_T.clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT).exp()
    low, high = settings.importance_sampling_clip_min, settings.importance_sampling_clip_max
    if settings.importance_sampling_mode in ("token_truncate", "sequence_truncate"):
        return weight_T.clamp(low, high)
    return weight_T.where((weight_T >= low) & (weight_T <= high), 0.0)
