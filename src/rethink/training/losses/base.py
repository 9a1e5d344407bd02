"""The settings that every loss gets, and the output that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rethink.settings import ImportanceSamplingMode
from rethink.training.metrics import Statistics


@dataclass(frozen=True)
class LossSettings:
    """Settings of a loss in addition to those of its part.

    `importance_sampling_mode` and its bounds are those of `losses.importance`. `comparison` is "mismatch" if sampler and
    trainer have the same weights (any difference of log-probs is then an error), "lag" if the trainer is some updates
    ahead, and "" if they cannot be compared.
    """

    importance_sampling_mode: ImportanceSamplingMode = "token_truncate"
    importance_sampling_clip_max: float = 2.0
    importance_sampling_clip_min: float = 0.0
    comparison: str = ""


class LossOutput(NamedTuple):
    """A micro-batch's share of the loss of its optimizer step, and its statistics."""

    loss: Tensor
    statistics: Statistics
