"""The geometric mean of clipped ratios, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rethink.objectives import GMPO, PolicyGradient
from rethink.training.losses import LossSettings
from rethink.training.losses.gmpo import gmpo_loss
from rethink.training.micro_batch import TrainingSample, lay_out
from support.samples import make_sample

PART = PolicyGradient((), (), GMPO(low=0.4, high=0.3))
NO_WEIGHTS = LossSettings("none")


def test_a_reply_has_one_ratio() -> None:
    """Guards against a mean of ratios, a clip after the mean or on the wrong side, and gradients of clipped tokens.

    The longer reply, A = -2, comes first: log-ratios -0.6, 0.7, -0.1 become -0.4, 0.7, -0.1 with the mean 1/15. The other,
    A = 1: 0.5, -0.9 become 0.3, -0.9 with the mean -0.3. Each token's slope is scale * -A exp(mean): the three tokens of a
    reply each have the loss -A exp(mean), and 1/3 of its derivative.
    """
    three = TrainingSample(make_sample((7, 8, 1), log_probs=(-1.0, -1.5, -2.0)), -2.0, 0.25)
    two = TrainingSample(make_sample((7, 1), log_probs=(-1.0, -2.0)), 1.0, 0.5)
    micro = lay_out([two, three])
    log_probs = (micro.old_T + torch.tensor([-0.6, 0.7, -0.1, 0.5, -0.9])).requires_grad_()
    loss, statistics = gmpo_loss(micro, log_probs, PART, NO_WEIGHTS)
    loss.backward()
    first, second = 0.25 * 2 * math.exp(1 / 15), -0.5 * math.exp(-0.3)
    assert loss.item() == pytest.approx(3 * first + 2 * second, rel=1e-5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([0.0, first, first, 0.0, second], rel=1e-5)
    found = statistics.metrics()
    assert (found["clip_low_frac"], found["clip_high_frac"]) == pytest.approx((1 / 5, 1 / 5))
    assert found["ratio"] == pytest.approx((3 * math.exp(1 / 15) + 2 * math.exp(-0.3)) / 5, rel=1e-5)


def test_different_advantages_of_a_reply_are_averaged() -> None:
    """Guards against a clip by the sign of the mean: 0.5 is clipped to 0.3 under A = 3, and -0.5 to -0.4 under A = -1."""
    sample = TrainingSample(make_sample((7, 1), log_probs=(-1.0, -2.0)), (3.0, -1.0), 0.5)
    micro = lay_out([sample])
    loss, _ = gmpo_loss(micro, micro.old_T + torch.tensor([0.5, -0.5]), PART, NO_WEIGHTS)
    assert loss.item() == pytest.approx(-(3 - 1) * 0.5 * math.exp((0.3 - 0.4) / 2), rel=1e-5)


def test_huge_log_ratios_stay_finite() -> None:
    """Guards against overflow: a log-ratio of 1000 with A < 0 counts as 20."""
    micro = lay_out([TrainingSample(make_sample((1,), log_probs=(-1000.0,)), -1.0, 1.0)])
    loss, _ = gmpo_loss(micro, torch.zeros(1), PART, NO_WEIGHTS)
    assert loss.item() == pytest.approx(math.exp(20), rel=1e-6)
