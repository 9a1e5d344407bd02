"""The settings that every loss gets, and the output that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rethink.training.metrics import Statistics


@dataclass(frozen=True)
class LossSettings:
    """Settings of a loss in addition to those of its part.

    `tis_cap` bounds the truncated importance ratio; with 0 there is no such ratio. `comparison` is "mismatch" if sampler
    and trainer have the same weights (any difference of log-probs is then an error), "lag" if the trainer is some updates
    ahead, and "" if they cannot be compared.
    """

    tis_cap: float = 2.0
    comparison: str = ""


class LossOutput(NamedTuple):
    """A micro-batch's share of the loss of its optimizer step, and its statistics."""

    loss: Tensor
    statistics: Statistics
