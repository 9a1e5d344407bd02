"""The clipped policy gradient by hand: surrogate, KL, sequence ratios, denominators and old log-probs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rethink.objectives import Clip, PolicyGradient
from rethink.training.losses import LossSettings, loss_of
from rethink.training.losses.ppo_clip import (
    clip_loss,
    clipped_surrogate,
    kl_to_initial,
    missing_old_log_probs,
    with_old_log_probs,
)
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from support.samples import make_sample, reply_of

CLIP = Clip(0.2, 0.28, 3.0)


def log_ratios(*ratios: float) -> tuple[Tensor, Tensor]:
    """Return log-probs, with a gradient, and old log-probs [T] of the given ratios."""
    old = torch.full((len(ratios),), -1.25)
    return (old + torch.tensor(ratios).log()).requires_grad_(), old


@pytest.mark.parametrize(
    ("ratio", "weight", "how", "loss", "slope"),
    [
        (1.5, 1.0, CLIP, -1.28, 0.0),  # bounded at 1.28
        (1.25, 1.0, CLIP, -1.25, -1.25),  # within 1.28; d(-A rho)/d log p = -A rho
        (0.5, 1.0, CLIP, -0.5, -0.5),  # max(-0.5, -0.8): too improbable a good token is still pushed up
        (0.5, -1.0, CLIP, 0.8, 0.0),  # max(0.5, 0.8)
        (1.5, -1.0, CLIP, 1.5, 1.5),  # max(1.5, 1.28)
        (5.0, -1.0, CLIP, 3.0, 0.0),  # min(5, 3): the dual clip
        (5.0, -1.0, Clip(0.2, 0.28), 5.0, 5.0),  # no dual clip
        (5.0, -0.5, CLIP, 1.5, 0.0),  # -A dual_clip = 0.5 * 3
    ],
)
def test_clipped_surrogate_by_hand(ratio: float, weight: float, how: Clip, loss: float, slope: float) -> None:
    """Guards against swapped max and min or bounds, and gradients of clipped tokens."""
    log_probs, old = log_ratios(ratio)
    out = clipped_surrogate(log_probs - old, torch.tensor([weight]), how)
    out.loss_T.sum().backward()
    assert out.loss_T.tolist() == pytest.approx([loss], rel=1e-6)
    assert out.ratio_T.tolist() == pytest.approx([ratio], rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([slope], rel=1e-6)
    assert not out.ratio_T.requires_grad


def test_clipped_tokens_are_counted_by_side() -> None:
    """Guards against counting every ratio outside the bounds: only one side is clipped, by the sign of A."""
    log_probs, old = log_ratios(0.5, 0.5, 1.5, 1.5, 1.25, 0.85, 1.5, 0.5)
    out = clipped_surrogate(log_probs - old, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0, 0.0]), Clip(0.2, 0.28))
    assert out.clipped_low_T.tolist() == [False, True, False, False, False, False, False, False]
    assert out.clipped_high_T.tolist() == [False, False, True, False, False, False, False, False]


def test_huge_log_ratios_stay_finite() -> None:
    """Guards against overflow: log-ratios are clamped to +-20, with no gradient beyond."""
    log_probs = torch.tensor([1000.0, -1000.0, 1000.0], requires_grad=True)
    out = clipped_surrogate(log_probs, torch.tensor([-1.0, 1.0, 1.0]), Clip(0.2, 0.28))
    out.loss_T.sum().backward()
    assert out.loss_T.tolist() == pytest.approx([math.exp(20), -math.exp(-20), -1.28], rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [0.0, 0.0, 0.0]


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


def two_replies() -> MicroBatch:
    """Return a micro-batch of replies of two and three tokens, with log-probs of the sampler and of old weights."""
    two = TrainingSample(make_sample((7, 1), log_probs=(-1.0, -2.0)), 2.0, 0.5, old=(-1.5, -2.25))
    three = TrainingSample(make_sample((7, 8, 1), log_probs=(-0.5, -1.0, -1.5)), -1.0, 0.25, old=(-1.0, -1.0, -1.0))
    return lay_out([two, three])


def test_sequence_ratio_by_hand() -> None:
    """Guards against a mean over the micro-batch, a sum instead of a mean, and importance ratios per token.

    The longer reply comes first in the layout: log rho = (0.6 + 0.3 - 0.3) / 3 = 0.2, importance exp(0) = 1 as
    (-0.5 + 0 + 0.5) / 3 = 0. The other: log rho = (0.3 - 0.1) / 2 = 0.1, importance exp((-0.5 - 0.25) / 2) = exp(-0.375).
    Loss: 0.25 * 3 * exp(0.2) - 0.5 * 2 * 2 * exp(-0.375) exp(0.1). d rho / d log p = rho for each token, as in GSPO-token.
    """
    micro = two_replies()
    log_probs = (micro.old_T + torch.tensor([0.6, 0.3, -0.3, 0.3, -0.1])).requires_grad_()
    part = PolicyGradient((), (), Clip(0.5, 0.5, importance_sampling_level="sequence"))
    loss, statistics = clip_loss(micro, log_probs, part, LossSettings())
    loss.backward()
    first, second = 0.25 * math.exp(0.2), -0.5 * 2.0 * math.exp(-0.375) * math.exp(0.1)
    assert loss.item() == pytest.approx(3 * first + 2 * second, rel=1e-5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([first] * 3 + [second] * 2, rel=1e-5)
    assert statistics.metrics()["ratio"] == pytest.approx((3 * math.exp(0.2) + 2 * math.exp(0.1)) / 5, rel=1e-5)
    # With the clip at 1 + 0.1 the second reply, of ratio 1.105 and A > 0, has no gradient as a whole.
    narrow = replace(part, surrogate=Clip(0.1, 0.1, importance_sampling_level="sequence"))
    loss, statistics = clip_loss(micro, log_probs, narrow, LossSettings())
    (slope,) = torch.autograd.grad(loss, log_probs)
    assert slope.tolist() == pytest.approx([first] * 3 + [0.0] * 2, rel=1e-5)
    found = statistics.metrics()
    assert (found["clip_high_frac"], found["clip_low_frac"]) == pytest.approx((2 / 5, 0.0))


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
