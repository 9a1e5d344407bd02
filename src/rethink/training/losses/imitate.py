"""Weighted negative log-likelihood: the sum of -weight * log p over trained tokens, divided by their number."""

from __future__ import annotations

from torch import Tensor

from rethink.objectives import Imitate
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample


def imitate_loss(micro: MicroBatch, log_probs_T: Tensor, part: Imitate, settings: LossSettings) -> LossOutput:
    """Return the weighted loss. Its statistics do not depend on the weights."""
    statistics = Statistics()
    statistics.mean("nll_nats", -log_probs_T.detach())
    loss_T = -micro.advantage_T * log_probs_T
    return LossOutput((loss_T * micro.scale_T).sum(), statistics)


def weighted_samples(part: Imitate) -> list[TrainingSample]:
    """Return the samples with a gradient. The denominator also counts the tokens of samples with weight 0."""
    scale = part.coefficient / max(1, sum(s.n_trained for s in part.samples))
    found = []
    for sample, weight in zip(part.samples, part.weights, strict=True):
        if sample.n_trained and weight:
            found.append(TrainingSample(sample, weight, scale))
    return found
