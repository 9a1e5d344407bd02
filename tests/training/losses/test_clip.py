"""PPO's clipped surrogate by hand, with ratios per token and per sequence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rethink.objectives import Clip, PolicyGradient
from rethink.training.losses import LossSettings
from rethink.training.losses.clip import clip_loss, clipped_surrogate
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from support.samples import make_sample

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


def two_replies() -> MicroBatch:
    """Return a micro-batch of replies of two and three tokens, with log-probs of the sampler and of old weights."""
    two = TrainingSample(make_sample((7, 1), log_probs=(-1.0, -2.0)), 2.0, 0.5, old=(-1.5, -2.25))
    three = TrainingSample(make_sample((7, 8, 1), log_probs=(-0.5, -1.0, -1.5)), -1.0, 0.25, old=(-1.0, -1.0, -1.0))
    return lay_out([two, three])


def test_sequence_ratio_by_hand() -> None:
    """Guards against a mean over the micro-batch, a sum instead of a mean, and importance weights per token.

    The longer reply comes first in the layout: log rho = (0.6 + 0.3 - 0.3) / 3 = 0.2, weight exp(-0.5 + 0 + 0.5) = 1. The
    other: log rho = (0.3 - 0.1) / 2 = 0.1, weight exp(-0.5 - 0.25) = exp(-0.75).
    Loss: 0.25 * 3 * exp(0.2) - 0.5 * 2 * 2 * exp(-0.75) exp(0.1). d rho / d log p = rho for each token, as in GSPO-token.
    """
    micro = two_replies()
    log_probs = (micro.old_T + torch.tensor([0.6, 0.3, -0.3, 0.3, -0.1])).requires_grad_()
    part = PolicyGradient((), (), Clip(0.5, 0.5, importance_sampling_level="sequence"))
    loss, statistics = clip_loss(micro, log_probs, part, LossSettings("sequence_truncate"))
    loss.backward()
    first, second = 0.25 * math.exp(0.2), -0.5 * 2.0 * math.exp(-0.75) * math.exp(0.1)
    assert loss.item() == pytest.approx(3 * first + 2 * second, rel=1e-5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([first] * 3 + [second] * 2, rel=1e-5)
    assert statistics.metrics()["ratio"] == pytest.approx((3 * math.exp(0.2) + 2 * math.exp(0.1)) / 5, rel=1e-5)
    # With the clip at 1 + 0.1 the second reply, of ratio 1.105 and A > 0, has no gradient as a whole.
    narrow = replace(part, surrogate=Clip(0.1, 0.1, importance_sampling_level="sequence"))
    loss, statistics = clip_loss(micro, log_probs, narrow, LossSettings("sequence_truncate"))
    (slope,) = torch.autograd.grad(loss, log_probs)
    assert slope.tolist() == pytest.approx([first] * 3 + [0.0] * 2, rel=1e-5)
    found = statistics.metrics()
    assert (found["clip_high_frac"], found["clip_low_frac"]) == pytest.approx((2 / 5, 0.0))


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_both_forms_of_gspo_are_one_for_one_advantage_per_reply(aggregation: str) -> None:
    """Guards against a claim that does not hold: loss and gradient of GSPO's eq. 5, by autograd, with s = (p / p_old)^(1/n)
    of the whole reply, are those of the token form; with "token", each reply counts as often as it has tokens."""
    steps = torch.tensor([0.6, 0.3, -0.3, 0.3, -0.1])
    scales = {"sequence": (1 / (2 * 3), 1 / (2 * 2)), "token": (1 / 5, 1 / 5)}[aggregation]
    three = TrainingSample(make_sample((7, 8, 1), log_probs=(-0.5, -1.0, -1.5)), -1.0, scales[0])
    two = TrainingSample(make_sample((7, 1), log_probs=(-1.0, -2.0)), 2.0, scales[1])
    micro = lay_out([two, three])
    part = PolicyGradient((), (), Clip(0.25, 0.15, importance_sampling_level="sequence"))
    log_probs = (micro.old_T + steps).requires_grad_()
    loss, _ = clip_loss(micro, log_probs, part, LossSettings("none"))
    (slope,) = torch.autograd.grad(loss, log_probs)

    whole = (micro.old_T + steps).requires_grad_()
    ratios = [(whole - micro.old_T)[:3].mean().exp(), (whole - micro.old_T)[3:].mean().exp()]
    losses = []
    for ratio, advantage in zip(ratios, (-1.0, 2.0), strict=True):
        losses.append(-torch.minimum(ratio * advantage, ratio.clamp(0.75, 1.15) * advantage))
    weights = {"sequence": (1 / 2, 1 / 2), "token": (3 / 5, 2 / 5)}[aggregation]
    wanted = weights[0] * losses[0] + weights[1] * losses[1]
    (slope_of_whole,) = torch.autograd.grad(wanted, whole)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert slope.tolist() == pytest.approx(slope_of_whole.tolist(), rel=1e-5)
