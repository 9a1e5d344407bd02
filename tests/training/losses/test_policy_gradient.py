"""What all policy gradients share, by hand: the KL term, denominators and old log-probs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rethink.objectives import PolicyGradient
from rethink.training.losses import loss_of
from rethink.training.losses.policy_gradient import kl_estimate, missing_old_log_probs, with_old_log_probs
from support.samples import make_sample, reply_of


def test_kl_estimates_by_hand() -> None:
    """Guards against the reversed direction, and against overflow: d is log 2, -log 2 and 0."""
    log_2 = math.log(2)
    reference = torch.tensor([-1.0 + log_2, -1.0 - log_2, -1.0])
    by_hand = {
        "k1": [-log_2, log_2, 0.0],
        "k2": [log_2**2 / 2, log_2**2 / 2, 0.0],
        "k3": [1 - log_2, log_2 - 0.5, 0.0],
    }
    far = {"k1": -20, "k2": 200, "k3": math.exp(20) - 21}
    for estimator, expected in by_hand.items():
        found = kl_estimate(torch.full((3,), -1.0), reference, estimator)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
        found = kl_estimate(torch.tensor([-500.0]), torch.tensor([-1.0]), estimator)
        assert found.tolist() == pytest.approx([far[estimator]], rel=1e-6)


@pytest.mark.parametrize(("estimator", "gradient_of"), [("k1", "nothing"), ("k2", "kl"), ("k3", "reverse")])
def test_the_gradients_of_kl_estimates(estimator: str, gradient_of: str) -> None:
    """Guards against a wrong claim: the means of k1 and k3 are KL(policy || reference), their mean gradients are not."""
    logits = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64, requires_grad=True)
    policy, reference = logits.log_softmax(0), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    kl = (policy.exp() * (policy - reference)).sum()
    mean = (policy.detach().exp() * kl_estimate(policy, reference, estimator)).sum()  # tokens of the policy, held fixed
    if estimator != "k2":
        assert mean.item() == pytest.approx(kl.item())
    wanted = {"kl": kl, "reverse": (reference.exp() * (reference - policy)).sum(), "nothing": 0 * kl}
    (slope,) = torch.autograd.grad(mean, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(wanted[gradient_of], logits)
    assert slope.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_advantage_zero_stays_in_the_denominator() -> None:
    """Guards against zero-std groups that leave the denominator (2 of 2 + 7 tokens), or go through the model."""
    samples = (reply_of(2), reply_of(7))
    part = PolicyGradient(samples, (1.0, 0.0))
    (row,) = loss_of(part).samples(part)
    assert (row.sample, row.scale) == (samples[0], 1 / 9)
    for other in (replace(part, kl_coef=0.1), replace(part, entropy_coef=0.1)):
        assert [r.sample for r in loss_of(part).samples(other)] == list(samples)


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
