"""Distillation: the mean over trained tokens of the divergence of student and teacher; see `objectives.Distill`.

loss = sum over trained tokens of scale * w * D(s, t)

scale   coefficient / number of trained tokens
w       min(p / p_sampler, ratio_cap) of the token, held constant; 1 if ratio_cap is 0, and for forced tokens
D       `objectives.Divergence`; t is held constant
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.forward.divergence import token_divergences
from rethink.objectives import Distill
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.forward import trained_states
from rethink.training.losses.policy_gradient import MAX_LOG_RATIO, compare_to_sampler
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out, pack


class Divergences(NamedTuple):
    """The divergence [T] at each trained token, and its log-prob [T] under the student, without a gradient."""

    divergence_T: Tensor
    log_probs_T: Tensor


def divergences(
    weights: Weights, reference: Weights | None, micro: MicroBatch, part: Distill, chunk_tokens: int
) -> Divergences:
    """Return the divergences from the teacher, which reads the same ids after its own prompts."""
    teacher = weights if part.teacher == "policy" else reference
    assert teacher is not None
    read = lay_out([_for_teacher(item) for item in micro.samples], micro.ids_F.device, teacher.image_vectors)
    assert read.order == micro.order, "both sort by the lengths of the replies"
    with torch.no_grad():
        teacher_T_H = trained_states(teacher, read)
    found = token_divergences(
        trained_states(weights, micro),
        weights.head,
        teacher_T_H,
        teacher.head,
        micro.target_T,
        micro.temperature_T,
        part.divergence,
        chunk_tokens,
    )
    return Divergences(*found)


def distill_loss(micro: MicroBatch, values: Divergences, part: Distill, settings: LossSettings) -> LossOutput:
    """Return the scaled sum of divergences."""
    statistics = Statistics()
    statistics.mean("divergence_nats", values.divergence_T.detach())
    sampler_T = torch.where(micro.forced_T, values.log_probs_T, micro.sampler_T)
    if settings.comparison:
        compare_to_sampler(statistics, settings.comparison, values.log_probs_T, sampler_T)
    weight_T = torch.ones_like(values.log_probs_T)
    if part.divergence.ratio_cap:
        log_ratio_T = (values.log_probs_T - sampler_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        weight_T = log_ratio_T.exp().clamp(max=part.divergence.ratio_cap)
        statistics.mean("divergence_weight", weight_T)
    return LossOutput((values.divergence_T * weight_T * micro.scale_T).sum(), statistics)


def distilled_samples(part: Distill) -> list[TrainingSample]:
    """Return the samples that have trained tokens, each with the one that the teacher reads."""
    scale = part.coefficient / max(1, sum(s.n_trained for s in part.samples))
    found = []
    for sample, read in zip(part.samples, part.teacher_samples, strict=True):
        if sample.n_trained:
            found.append(TrainingSample(sample, scale=scale, teacher_sample=replace(read, mask=sample.mask)))
    return found


def pack_for_teacher(
    samples: Sequence[TrainingSample], max_tokens: int, n_shares: int = 1, shares_prompts: bool = True
) -> list[list[TrainingSample]]:
    """Distribute samples over micro-batches that fit also as the teacher reads them: its prompts are the longer ones."""
    numbered = [replace(_for_teacher(item), position=i) for i, item in enumerate(samples)]
    batches = []
    for batch in pack(numbered, max_tokens, n_shares, shares_prompts):
        batches.append([samples[item.position] for item in batch])
    return batches


def _for_teacher(item: TrainingSample) -> TrainingSample:
    assert item.teacher_sample is not None
    return replace(item, sample=item.teacher_sample)
