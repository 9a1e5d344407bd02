"""The losses, one file for each: formula, denominator and statistics on one screen.

A loss is a pure function of a micro-batch, the log-probs [T] of its trained tokens and its part. `LOSSES` finds it by the
class of the part, or of a policy gradient's surrogate. A new one needs a class of settings and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rethink.objectives import AdvantageAwareShaping, Clip, Imitate, Part, PolicyGradient, Prefer
from rethink.training.losses.advantage_aware_shaping import shaped_loss
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.clip import clip_loss, samples_with_gradient
from rethink.training.losses.imitate import imitate_loss, weighted_samples
from rethink.training.losses.prefer import paired_samples, prefer_loss
from rethink.training.micro_batch import MicroBatch, TrainingSample, pack, pack_pairs

__all__ = ["LOSSES", "Loss", "LossOutput", "LossSettings", "loss_of"]


class Loss(NamedTuple):
    """What the trainer needs of a kind of loss.

    `samples` chooses what goes through the model, with denominators that are counted over the whole part; `pack` makes
    micro-batches of them; `compute` is the loss of one.
    """

    compute: Callable[[MicroBatch, Tensor, Any, LossSettings], LossOutput]
    samples: Callable[[Any], list[TrainingSample]] = samples_with_gradient
    pack: Callable[[Sequence[TrainingSample], int, int], list[list[TrainingSample]]] = pack


LOSSES: dict[type, Loss] = {
    Clip: Loss(clip_loss),
    AdvantageAwareShaping: Loss(shaped_loss),
    Imitate: Loss(imitate_loss, weighted_samples),
    Prefer: Loss(prefer_loss, paired_samples, pack_pairs),
}


def loss_of(part: Part) -> Loss:
    """Return the loss of a part. Raise ValueError for one that is not in `LOSSES`."""
    kind = type(part.surrogate) if isinstance(part, PolicyGradient) else type(part)
    if kind not in LOSSES:
        raise ValueError(f"there is no loss for {kind.__name__}: add one to rethink.training.losses.LOSSES")
    return LOSSES[kind]
