"""The losses, one file each: formula, denominator and statistics.

A loss is a pure function of a micro-batch, the log-probs [T] of its trained tokens, its part and the loss settings. A loss
that needs more than log-probs has its own forward pass.
`LOSSES` maps the class of a part, or of a policy gradient's surrogate, to its loss. To add one, write a class of settings
and add an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from rethink.models.forward import Weights
from rethink.objectives import (
    CISPO,
    GMPO,
    SAPO,
    AdvantageAwareShaping,
    Clip,
    Distill,
    Imitate,
    Part,
    PolicyGradient,
    Prefer,
)
from rethink.training.losses.advantage_aware_shaping import shaped_loss
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.cispo import cispo_loss
from rethink.training.losses.clip import clip_loss
from rethink.training.losses.distill import distill_loss, distilled_samples, divergences, pack_for_teacher
from rethink.training.losses.forward import only_log_probs
from rethink.training.losses.gmpo import gmpo_loss
from rethink.training.losses.imitate import imitate_loss, weighted_samples
from rethink.training.losses.policy_gradient import samples_with_gradient
from rethink.training.losses.policy_terms import log_probs_and_entropies, with_entropy_bonus, with_kl_in_advantage
from rethink.training.losses.prefer import paired_samples, prefer_loss
from rethink.training.losses.sapo import sapo_loss
from rethink.training.micro_batch import MicroBatch, TrainingSample, pack, pack_pairs

__all__ = ["LOSSES", "Loss", "LossOutput", "LossSettings", "loss_of"]


class Loss(NamedTuple):
    """The functions of a loss that the trainer calls.

    `samples` returns the samples that need a forward pass, with denominators counted over the whole part; `pack`
    distributes them over micro-batches; `forward` runs the model, with gradients, on the weights in training (and on those
    of the reference model, which may be None); `compute` returns the loss of a micro-batch from what `forward` returned.
    `reference_log_probs` says that a part that needs the reference model finds its log-probs in the micro-batch.
    """

    compute: Callable[[MicroBatch, Any, Any, LossSettings], LossOutput]
    samples: Callable[[Any], list[TrainingSample]] = samples_with_gradient
    pack: Callable[[Sequence[TrainingSample], int, int, bool], list[list[TrainingSample]]] = pack
    forward: Callable[[Weights, Weights | None, MicroBatch, Any, int], Any] = only_log_probs
    reference_log_probs: bool = True


LOSSES: dict[type, Loss] = {
    Clip: Loss(clip_loss),
    GMPO: Loss(gmpo_loss),
    CISPO: Loss(cispo_loss),
    SAPO: Loss(sapo_loss),
    AdvantageAwareShaping: Loss(shaped_loss),
    Imitate: Loss(imitate_loss, weighted_samples),
    Prefer: Loss(prefer_loss, paired_samples, pack_pairs),
    Distill: Loss(distill_loss, distilled_samples, pack_for_teacher, divergences, reference_log_probs=False),
}


def loss_of(part: Part) -> Loss:
    """Return the loss for a part. Raise ValueError if `LOSSES` has none."""
    kind = type(part.surrogate) if isinstance(part, PolicyGradient) else type(part)
    if kind not in LOSSES:
        raise ValueError(f"there is no loss for {kind.__name__}: add one to rethink.training.losses.LOSSES")
    loss = LOSSES[kind]
    if isinstance(part, PolicyGradient) and part.kl_coef and part.kl_estimator == "k1":
        loss = loss._replace(compute=partial(with_kl_in_advantage, loss.compute))
    if isinstance(part, PolicyGradient) and part.entropy_coef:
        loss = loss._replace(compute=partial(with_entropy_bonus, loss.compute), forward=log_probs_and_entropies)
    return loss
