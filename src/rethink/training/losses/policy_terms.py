"""Terms that are added to any policy gradient, whatever its surrogate: the entropy bonus, and KL in the advantage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.forward.token_entropies import token_log_probs_and_entropies
from rethink.objectives import PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.forward import trained_states
from rethink.training.losses.policy_gradient import log_ratio_to_reference
from rethink.training.micro_batch import MicroBatch

Compute = Callable[[MicroBatch, Any, Any, LossSettings], LossOutput]


class LogProbsAndEntropies(NamedTuple):
    """Log-probs [T] of the trained tokens, and the entropies [T] of their distributions."""

    log_probs_T: Tensor
    entropy_T: Tensor


def log_probs_and_entropies(
    weights: Weights, reference: Weights | None, micro: MicroBatch, part: Any, chunk_tokens: int
) -> LogProbsAndEntropies:
    """Return both, from one forward pass."""
    found = token_log_probs_and_entropies(
        trained_states(weights, micro), weights.head, micro.target_T, micro.temperature_T, chunk_tokens
    )
    return LogProbsAndEntropies(*found)


def with_entropy_bonus(
    compute: Compute, micro: MicroBatch, values: LogProbsAndEntropies, part: PolicyGradient, settings: LossSettings
) -> LossOutput:
    """Return the surrogate's loss, minus entropy_coef * entropy of each trained token, on the same scale."""
    loss, statistics = compute(micro, values.log_probs_T, part, settings)
    statistics.mean("full_entropy_nats", values.entropy_T.detach())
    return LossOutput(loss - part.entropy_coef * (values.entropy_T * micro.scale_T).sum(), statistics)


def with_kl_in_advantage(
    compute: Compute, micro: MicroBatch, values: Any, part: PolicyGradient, settings: LossSettings
) -> LossOutput:
    """Return the surrogate's loss with the advantage A - kl_coef * (log p_old - log p_reference) of each token."""
    assert micro.reference_T is not None
    penalty_T = part.kl_coef * -log_ratio_to_reference(micro.old_T, micro.reference_T)
    return compute(replace(micro, advantage_T=micro.advantage_T - penalty_T), values, part, settings)
