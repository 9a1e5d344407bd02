"""DPO: the mean over pairs of -log sigmoid(beta * (r(chosen) - r(rejected))), where r = log p - log p_initial of a
reply."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rethink.objectives import Prefer
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample


def prefer_loss(micro: MicroBatch, log_probs_T: Tensor, part: Prefer, settings: LossSettings) -> LossOutput:
    """Return the loss of the pairs of samples 0 and 1, 2 and 3, and so on. A reply without trained tokens has r = 0."""
    assert micro.reference_T is not None
    ratio_N = _sums(micro, log_probs_T - micro.reference_T)
    margin_P = part.beta * (ratio_N[0::2] - ratio_N[1::2])
    loss = -logsigmoid(margin_P).sum() * micro.samples[0].scale
    log_prob_N = _sums(micro, log_probs_T.detach())
    statistics = Statistics()
    statistics.mean("preference/margin", margin_P.detach())
    statistics.mean("preference/accuracy", (margin_P > 0).float())
    statistics.mean("preference/chosen_log_prob", log_prob_N[0::2])
    statistics.mean("preference/rejected_log_prob", log_prob_N[1::2])
    statistics.total("preference/n_pairs", len(margin_P))
    return LossOutput(loss, statistics)


def _sums(micro: MicroBatch, values_T: Tensor) -> Tensor:
    """Return the sums [N] over each sample's tokens."""
    return torch.stack([own_T.sum() for own_T in micro.by_sample(values_T)])


def paired_samples(part: Prefer) -> list[TrainingSample]:
    """Return chosen and rejected samples, alternating. Leave out pairs without trained tokens; the mean skips them, too."""
    trained = []
    for chosen, rejected in zip(part.chosen, part.rejected, strict=True):
        if chosen.n_trained or rejected.n_trained:
            trained += [chosen, rejected]
    n_pairs = len(trained) // 2
    scale = part.coefficient / max(1, n_pairs)
    return [TrainingSample(sample, scale=scale) for sample in trained]
