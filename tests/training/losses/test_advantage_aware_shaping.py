"""Shaping of forced tokens by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from rethink.objectives import AdvantageAwareShaping, Clip, PolicyGradient
from rethink.training.losses import LossSettings
from rethink.training.losses import advantage_aware_shaping as shaping
from rethink.training.losses.advantage_aware_shaping import shaped_loss
from rethink.training.micro_batch import TrainingSample, lay_out
from support.samples import make_sample


def coefficient(p: float, weight: float, **settings: Any) -> float:
    return float(shaping.coefficient(torch.tensor([p]), torch.tensor([weight]), AdvantageAwareShaping(**settings)))


BOOSTED = [(0.1, 1.0101), (0.01, 1.1111), (0.0011, 2.0), (0.0009, 1.0001)]
SOFTENED = [(0.1, 0.9901), (0.0009, 0.4737), (0.9995, 0.9999)]


def test_coefficients_by_hand() -> None:
    """Guards against swapped bounds of gamma, and a pole at p = |gamma|: 0.0011 would be multiplied by 11."""
    for weight, table in ((4.0, BOOSTED), (-4.0, SOFTENED)):
        for p, c in table:
            assert coefficient(p, weight) == pytest.approx(c, abs=6e-5)
    assert coefficient(0.0011, 4.0, cap=100.0) == pytest.approx(11.0, rel=1e-3)
    for weight, gamma in ((6.0, -0.001), (4.0, -0.001), (1.0, -0.00025), (0.0, 0.0), (-1.0, 0.00025)):
        assert coefficient(0.25, weight) == pytest.approx(0.25 / (0.25 + gamma), rel=1e-6)
        assert coefficient(0.25, weight, gamma="released") == pytest.approx(0.25 / 0.249, rel=1e-6)


def test_slope() -> None:
    """Guards against a gradient through the coefficient, and a ratio that is clipped: d loss / d log p = -A c."""
    advantages = torch.tensor([4.0, -4.0])
    log_probs = torch.tensor([0.02, 0.02]).log().requires_grad_()
    everywhere = torch.ones(2, dtype=torch.bool)
    out = shaping.shaped_surrogate(log_probs, log_probs + advantages, advantages, everywhere, AdvantageAwareShaping())
    out.loss_T.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-a * coefficient(0.02, a) for a in (4.0, -4.0)], rel=1e-5)
    assert not (out.clipped_high_T | out.clipped_low_T).any()


@pytest.mark.parametrize("gamma", ["aware", "released", "constant", "none"])
def test_impossible_forced_tokens_stay_finite(gamma: Literal["aware", "released", "constant", "none"]) -> None:
    """Guards against 0/0 where a probability underflows: exp(-300) is 0 in float32."""
    log_probs = torch.tensor([-300.0, -300.0, 0.0], requires_grad=True)
    weights = torch.tensor([2.0, -2.0, 4.0])
    settings = AdvantageAwareShaping(gamma)
    where = shaping.is_shaped(log_probs, weights, torch.ones(3, dtype=torch.bool), settings)
    out = shaping.shaped_surrogate(log_probs, log_probs - log_probs.detach(), weights, where, settings)
    out.loss_T.sum().backward()
    assert out.loss_T.isfinite().all()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()


@pytest.mark.parametrize("scope", ["feedback", "trajectory"])
def test_guided_tokens(scope: Literal["feedback", "trajectory"]) -> None:
    """Guards against shaped tokens of replies without feedback, and a scope that has no effect.

    A = 4: gamma -0.001, p = exp(-1): slope -4 p / (p - 0.001) where shaped. The others are clipped: the ratio is
    exp(-1 + 2), above 1.2, so their slope is 0."""
    nan = float("nan")
    spliced = make_sample((7, 8, 1), log_probs=(-2.0, -2.0, nan), forced=(False, False, True))
    other = make_sample((7, 1), log_probs=(-2.0, -2.0))
    micro = lay_out([TrainingSample(spliced, 4.0, 1.0, old=(-2.0, -2.0, -2.0)), TrainingSample(other, 4.0, 1.0)])
    log_probs = torch.full((5,), -1.0, requires_grad=True)
    part = PolicyGradient((), (), AdvantageAwareShaping(guided_scope=scope))
    shaped_loss(micro, log_probs, part, LossSettings()).loss.backward()
    shaped = -4 * math.exp(-1) / (math.exp(-1) - 0.001)
    assert log_probs.grad is not None
    own, others = micro.by_sample(log_probs.grad)
    assert own.tolist() == pytest.approx([0.0, 0.0, shaped] if scope == "feedback" else [shaped] * 3, rel=1e-5)
    assert others.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("gamma", ["aware", "none"])
def test_sequence_ratio_with_forced_tokens(gamma: Literal["aware", "none"]) -> None:
    """Guards against forced tokens in the ratio of chosen ones, and an importance weight for them.

    Chosen: log rho = (0.4 + 0.2) / 2 = 0.3, weight exp(-0.5 + 0.25). The forced token is shaped, c = p / (p - 0.001 / 4).
    With gamma "none" it is clipped, log rho is (0.4 + 0.2 + 0.9) / 3 = 0.5, weight exp(-0.5 + 0.25 + 0).
    """
    nan = float("nan")
    spliced = make_sample((7, 8, 1), log_probs=(-1.0, -2.0, nan), forced=(False, False, True))
    micro = lay_out([TrainingSample(spliced, 1.0, 1.0, old=(-1.5, -1.75, -2.0))])
    log_probs = (micro.old_T + torch.tensor([0.4, 0.2, 0.9])).requires_grad_()
    part = PolicyGradient(
        (), (), AdvantageAwareShaping(gamma, clip=Clip(1.0, 1e9, importance_sampling_level="sequence"))
    )
    shaped_loss(micro, log_probs, part, LossSettings("sequence_truncate")).loss.backward()
    if gamma == "none":
        wanted = [-math.exp(0.5 - 0.25)] * 3
    else:
        p = math.exp(-2.0 + 0.9)
        wanted = [-math.exp(0.3 - 0.25)] * 2 + [-p / (p - 0.00025)]
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx(wanted, rel=1e-5)
