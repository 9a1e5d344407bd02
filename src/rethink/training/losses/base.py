"""What every loss takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rethink.training.monitor import Statistics


@dataclass(frozen=True)
class LossSettings:
    """What a loss needs beside its part's own settings.

    `tis_cap` bounds the truncated importance ratio. `comparison` is "mismatch" where sampler and trainer have the same
    weights (any difference of their log-probs is then a fault), "lag" where the trainer is some updates ahead, and ""
    where they cannot be compared.
    """

    tis_cap: float = 2.0
    comparison: str = ""


class LossOutput(NamedTuple):
    """A micro-batch's share of the loss of its optimizer step, and what is noteworthy about it."""

    loss: Tensor
    statistics: Statistics
