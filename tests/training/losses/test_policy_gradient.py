"""What all policy gradients share, by hand: the KL term, denominators and old log-probs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rethink.objectives import PolicyGradient
from rethink.training.losses import loss_of
from rethink.training.losses.policy_gradient import kl_to_initial, missing_old_log_probs, with_old_log_probs
from support.samples import make_sample, reply_of


def test_kl_to_initial_by_hand() -> None:
    """Guards against the reversed direction, and against overflow."""
    initial = torch.tensor([-1.0 + math.log(2), -1.0 - math.log(2), -1.0])
    kl = kl_to_initial(torch.full((3,), -1.0), initial)
    assert kl.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0], abs=1e-6)
    kl = kl_to_initial(torch.tensor([-500.0]), torch.tensor([-1.0]))
    assert kl.tolist() == pytest.approx([math.exp(20) - 21], rel=1e-6)


def test_the_gradient_of_the_kl_term() -> None:
    """Guards against a wrong claim: the term's mean is KL(policy || initial), its mean gradient that of the reverse."""
    logits = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64, requires_grad=True)
    policy, initial = logits.log_softmax(0), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    mean = (policy.detach().exp() * kl_to_initial(policy, initial)).sum()  # over the policy's tokens, held fixed
    assert mean.item() == pytest.approx((policy.exp() * (policy - initial)).sum().item())
    reverse = (initial.exp() * (initial - policy)).sum()  # KL(initial || policy)
    (slope,) = torch.autograd.grad(mean, logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(reverse, logits)
    assert slope.tolist() == pytest.approx(wanted.tolist())


def test_advantage_zero_stays_in_the_denominator() -> None:
    """Guards against zero-std groups that leave the denominator (2 of 2 + 7 tokens), or go through the model."""
    samples = (reply_of(2), reply_of(7))
    part = PolicyGradient(samples, (1.0, 0.0))
    (row,) = loss_of(part).samples(part)
    assert (row.sample, row.scale) == (samples[0], 1 / 9)
    assert [r.sample for r in loss_of(part).samples(replace(part, kl_coef=0.1))] == list(samples)


def test_old_log_probs_by_hand() -> None:
    """Guards against log-probs at the place of a masked token, and forced tokens that overwrite the sampler's own."""
    nan = float("nan")
    spliced = make_sample(
        (7, 8, 9, 1),
        mask=(True, False, True, True),
        log_probs=(-0.5, -8.0, nan, nan),
        forced=(False, False, True, True),
    )
    part = PolicyGradient((reply_of(2), spliced, spliced, spliced), (1.0, 1.0, 0.0, -1.0))
    assert missing_old_log_probs(part, recompute=False) == [1, 3], "one without an advantage costs nothing"
    assert missing_old_log_probs(part, recompute=True) == [0, 1, 3]
    computed = {1: torch.tensor([-0.75, -1.0, -1.25])}
    recomputed = (-1.0, -1.0)
    forced_only = with_old_log_probs(part, computed, recompute=False).old_log_probs
    assert forced_only == (None, (-0.5, -8.0, -1.0, -1.25), None, None)
    both = with_old_log_probs(part, {**computed, 0: torch.tensor(recomputed)}, recompute=True).old_log_probs
    assert both == (recomputed, (-0.75, -8.0, -1.0, -1.25), None, None)
