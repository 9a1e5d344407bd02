"""What all policy gradients share; formulas in `objectives.PolicyGradient`. Each surrogate has its own file.

loss = sum over trained tokens of scale * (w * l + kl * k)

scale   coefficient / denominator, by the part's `loss_aggregation`
l       the surrogate's loss of the token
w       the importance weight (`losses.importance`)
k       exp(d) - d - 1 ("k3") or d * d / 2 ("k2"), d = log p_reference - log p of the token; 0 for "k1", which is in the
        advantage (`policy_terms`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from rethink.objectives import PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample

MAX_LOG_RATIO = 20.0
"""Bound on the absolute value of log-ratios, as in ThinkTwice's released code: ratios never overflow."""


def samples_with_gradient(part: PolicyGradient) -> list[TrainingSample]:
    """Return the samples with a gradient, each with its scale. The denominator counts all samples of the part."""
    n_tokens = sum(s.n_trained for s in part.samples)
    n_samples = sum(s.n_trained > 0 for s in part.samples)
    found = []
    for i, sample in enumerate(part.samples):
        if not sample.n_trained or not has_gradient(part, i):
            continue
        if part.loss_aggregation == "token":
            denominator = n_tokens
        elif part.loss_aggregation == "sequence":
            denominator = n_samples * sample.n_trained
        else:
            denominator = n_samples * part.constant_length
        old = part.old_log_probs[i] if part.old_log_probs else None
        found.append(TrainingSample(sample, part.advantages[i], part.coefficient / denominator, old))
    return found


def has_gradient(part: PolicyGradient, i: int) -> bool:
    """Return whether sample i needs a forward pass: its advantage is not 0, or there is a KL or an entropy term."""
    advantage = part.advantages[i]
    if part.kl_coef or part.entropy_coef:
        return True
    return any(advantage) if isinstance(advantage, tuple) else advantage != 0


class TokenLosses(NamedTuple):
    """Loss per token [T] without scale, its ratio, and whether the clip removes its gradient, below or above.

    All but the loss are for the log."""

    loss_T: Tensor
    ratio_T: Tensor
    clipped_low_T: Tensor
    clipped_high_T: Tensor


def policy_gradient(
    micro: MicroBatch,
    log_probs_T: Tensor,
    tokens: TokenLosses,
    importance_T: Tensor,
    part: PolicyGradient,
    settings: LossSettings,
) -> LossOutput:
    """Return the scaled sum of token losses and KL term, for any surrogate."""
    statistics = Statistics()
    if settings.comparison:
        compare_to_sampler(statistics, settings.comparison, log_probs_T.detach(), micro.sampler_T)
    statistics.mean("ratio", tokens.ratio_T.detach())
    statistics.mean("clip_low_frac", tokens.clipped_low_T.float())
    statistics.mean("clip_high_frac", tokens.clipped_high_T.float())
    if settings.importance_sampling_mode != "none":
        statistics.mean("importance_weight", importance_T)
    if settings.importance_sampling_mode in ("token_mask", "sequence_mask"):
        statistics.mean("importance_masked_frac", (importance_T == 0).float())
    loss_T = tokens.loss_T * importance_T
    if micro.reference_T is not None:
        kl_T = kl_estimate(log_probs_T, micro.reference_T, part.kl_estimator)
        statistics.mean("kl_to_reference_nats", kl_T.detach())
        if part.kl_estimator != "k1":
            loss_T = loss_T + part.kl_coef * kl_T
    return LossOutput((loss_T * micro.scale_T).sum(), statistics)


def kl_estimate(log_probs_T: Tensor, reference_T: Tensor, estimator: str) -> Tensor:
    """Return an estimate of KL(policy || reference) per token, in nats: Schulman's k1, k2 or k3, of which k1 and k3 have
    the right mean.

    Over tokens of the policy, which are held fixed, the mean gradient of k3 is that of KL(reference || policy), that of k2
    is that of KL(policy || reference), and that of k1 is 0 (arXiv 2510.01555).
    """
    d = log_ratio_to_reference(log_probs_T, reference_T)
    if estimator == "k1":
        return -d
    return d * d / 2 if estimator == "k2" else d.exp() - d - 1


def log_ratio_to_reference(log_probs_T: Tensor, reference_T: Tensor) -> Tensor:
    """Return log p_reference - log p per token, bounded."""
    return (reference_T - log_probs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def compare_to_sampler(statistics: Statistics, name: str, log_probs_T: Tensor, sampler_T: Tensor) -> None:
    """Add statistics of the difference between the trainer's and the sampler's log-probs, before any optimizer step."""
    gap_T = log_probs_T - sampler_T
    statistics.mean(f"{name}/log_prob_gap", gap_T.abs())
    statistics.max(f"{name}/log_prob_gap_max", float(gap_T.abs().max()))
    statistics.mean(f"{name}/prob_gap", (log_probs_T.exp() - sampler_T.exp()).abs())
    statistics.mean(f"{name}/exp_log_prob_gap", gap_T.abs().exp())
    statistics.mean(f"{name}/kl", gap_T.exp() - gap_T - 1)


def missing_old_log_probs(part: PolicyGradient, recompute: bool) -> list[int]:
    """Return the indices of the samples whose old log-probs the trainer has to compute: with `recompute` all that have a
    gradient, else those with forced tokens, for which the sampler has none."""
    found = []
    for i, sample in enumerate(part.samples):
        if (recompute or any(sample.forced)) and has_gradient(part, i):
            found.append(i)
    return found


def with_old_log_probs(part: PolicyGradient, computed: Mapping[int, Tensor], recompute: bool) -> PolicyGradient:
    """Return the part with the computed old log-probs [T], by sample index; without `recompute`, only on forced tokens."""
    old: list[tuple[float, ...] | None] = [None] * len(part.samples)
    for i, log_probs_T in computed.items():
        sample = part.samples[i]
        of_tokens = list(sample.log_probs)
        trained = [t for t, is_trained in enumerate(sample.mask) if is_trained]
        for t, log_prob in zip(trained, log_probs_T.tolist(), strict=True):
            if recompute or (sample.forced and sample.forced[t]):
                of_tokens[t] = log_prob
        old[i] = tuple(of_tokens)
    return replace(part, old_log_probs=tuple(old))
