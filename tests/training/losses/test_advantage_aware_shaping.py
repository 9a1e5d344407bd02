"""Shaping of forced tokens by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from rethink.objectives import AdvantageAwareShaping, Clip, PolicyGradient
from rethink.training.losses import LossSettings
from rethink.training.losses import advantage_aware_shaping as shaping
from rethink.training.losses.advantage_aware_shaping import shaped_loss
from rethink.training.losses.ppo_clip import TokenLosses, clipped_surrogate
from rethink.training.micro_batch import TrainingSample, lay_out
from support.samples import make_sample

CLIP = Clip(0.2, 0.28, 3.0)


Gamma = Literal["aware", "released", "constant", "none"]
GAMMAS: tuple[Gamma, ...] = ("aware", "released", "constant", "none")


def log_ratios(*ratios: float) -> tuple[Tensor, Tensor]:
    """Return log-probs, with a gradient, and old log-probs [T] of the given ratios."""
    old = torch.full((len(ratios),), -1.25)
    return (old + torch.tensor(ratios).log()).requires_grad_(), old


def shaped(
    log_probs: Tensor, old: Tensor, advantages: Tensor, forced: Tensor, settings: AdvantageAwareShaping
) -> TokenLosses:
    where = shaping.is_shaped(log_probs, advantages, forced, settings)
    return shaping.shaped_surrogate(log_probs, log_probs - old, advantages, where, settings)


def coefficient(p: float, weight: float, **settings: Any) -> float:
    return float(shaping.coefficient(torch.tensor([p]), torch.tensor([weight]), AdvantageAwareShaping(**settings)))


@pytest.mark.parametrize(
    ("weight", "gamma"), [(4.0, -0.001), (1.0, -0.00025), (0.0, 0.0), (-1.0, 0.00025), (-4.0, 0.001), (6.0, -0.001)]
)
def test_gamma_depends_on_the_advantage(weight: float, gamma: float) -> None:
    """Guards against swapped bounds, which made the released code's map constant: c = p / (p + gamma)."""
    assert coefficient(0.25, weight) == pytest.approx(0.25 / (0.25 + gamma), rel=1e-6)
    assert coefficient(0.25, weight, gamma="released") == pytest.approx(0.25 / 0.249, rel=1e-6)
    # Ten times the strength, ten times the gamma.
    assert coefficient(0.25, weight, strength=0.01) == pytest.approx(0.25 / (0.25 + 10 * gamma), rel=1e-5)


BOOSTED = [(0.9, 1.0011), (0.1, 1.0101), (0.01, 1.1111), (0.002, 2.0), (0.0011, 2.0), (0.001, 2.0), (0.0009, 1.0001)]


SOFTENED = [(0.1, 0.9901), (0.01, 0.9091), (0.0009, 0.4737), (0.9995, 0.9999)]


def test_coefficients_by_hand() -> None:
    """Guards against a pole at p = |gamma|: 0.0011 would be multiplied by 11. With 0.9995 the denominator exceeds 1."""
    for weight, table in ((4.0, BOOSTED), (-4.0, SOFTENED)):
        for p, c in table:
            assert coefficient(p, weight) == pytest.approx(c, abs=6e-5)
    assert coefficient(0.0011, 4.0, cap=100.0) == pytest.approx(11.0, rel=1e-3)


@pytest.mark.parametrize("weight", [4.0, 1.0, -1.0, -4.0])
@pytest.mark.parametrize("p", [0.9, 0.1, 0.02, 0.0011])
def test_slope(weight: float, p: float) -> None:
    """Guards against a gradient through the coefficient, and a ratio that is clipped: d loss / d log p = -A c."""
    settings = AdvantageAwareShaping(guard=0.0)
    log_probs = torch.tensor([p]).log().requires_grad_()
    # Old log-probs far away, where a clip would act.
    out = shaped(log_probs, log_probs.detach() - weight, torch.tensor([weight]), torch.tensor([True]), settings)
    out.loss_T.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-weight * coefficient(p, weight)], rel=1e-5)
    assert not out.clipped_high_T.any()
    assert not out.clipped_low_T.any()


def test_slope_with_a_constant_gamma() -> None:
    """Guards against a coefficient without gradient: d/d log p = -A p g / (p + g)^2. p 0.1, g 0.25: 0.025 / 0.1225."""
    log_probs = torch.tensor([0.1]).log().requires_grad_()
    settings = AdvantageAwareShaping("constant", strength=0.25)
    out = shaped(log_probs, log_probs.detach(), torch.tensor([2.0]), torch.tensor([True]), settings)
    out.loss_T.sum().backward()
    assert out.loss_T.tolist() == pytest.approx([-2 * 0.1 / 0.35], rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-2 * 0.025 / 0.1225], rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "p", "is_shaped"), [(-1.0, 0.005, False), (-1.0, 0.05, True), (1.0, 0.005, True), (0.0, 0.005, True)]
)
def test_rare_tokens_are_not_pushed_down(weight: float, p: float, is_shaped: bool) -> None:
    """Guards against pushing down rare tokens: with A < 0 and p below the guard of 0.01, the dual clip acts."""
    log_probs = torch.tensor([p]).log().requires_grad_()
    old = log_probs.detach() - math.log(5.0)  # a ratio of 5, past the dual clip
    out = shaped(log_probs, old, torch.tensor([weight]), torch.tensor([True]), AdvantageAwareShaping())
    loss = -weight * coefficient(p, weight) if is_shaped else 3.0
    assert out.loss_T.tolist() == pytest.approx([loss], rel=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_chosen_tokens_are_clipped_bit_for_bit(gamma: Gamma) -> None:
    """Guards against shaping of chosen tokens, in values or gradients."""
    settings = AdvantageAwareShaping(gamma, clip=CLIP)
    ratios, weights = (0.5, 1.25, 1.5, 5.0, 5.0, 1.0), torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0, 0.0])
    found = []
    for forced in (None, torch.zeros(6, dtype=torch.bool)):
        log_probs, old = log_ratios(*ratios)
        if forced is None:
            out = clipped_surrogate(log_probs - old, weights, CLIP)
        else:
            out = shaped(log_probs, old, weights, forced, settings)
        (slope,) = torch.autograd.grad(out.loss_T.sum(), log_probs)
        found.append([*out, slope])
    assert all(map(torch.equal, *found))
    log_probs, old = log_ratios(*ratios)
    everywhere = shaped(log_probs, old, weights, torch.ones(6, dtype=torch.bool), settings)
    assert torch.equal(everywhere.loss_T, found[0][0]) == (gamma == "none")


@pytest.mark.parametrize("gamma", GAMMAS)
def test_impossible_forced_tokens_stay_finite(gamma: Gamma) -> None:
    """Guards against 0/0 where a probability underflows: exp(-300) is 0 in float32."""
    log_probs = torch.tensor([-300.0, -300.0, 0.0], requires_grad=True)
    weights = torch.tensor([2.0, -2.0, 4.0])
    settings = AdvantageAwareShaping(gamma)
    out = shaped(log_probs, log_probs.detach(), weights, torch.ones(3, dtype=torch.bool), settings)
    out.loss_T.sum().backward()
    assert out.loss_T.isfinite().all()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()


@pytest.mark.parametrize("gamma", ["aware", "none"])
def test_sequence_ratio_with_forced_tokens(gamma: Literal["aware", "none"]) -> None:
    """Guards against forced tokens in the ratio of chosen ones, and an importance ratio for them.

    Chosen: log rho = (0.4 + 0.2) / 2 = 0.3, importance exp((-0.5 + 0.25) / 2) = exp(-0.125). The forced token is shaped,
    c = p / (p - 0.001 / 4). With gamma "none" it is clipped, log rho is (0.4 + 0.2 + 0.9) / 3 = 0.5, importance
    exp((-0.5 + 0.25 + 0) / 3).
    """
    nan = float("nan")
    spliced = make_sample((7, 8, 1), log_probs=(-1.0, -2.0, nan), forced=(False, False, True))
    micro = lay_out([TrainingSample(spliced, 1.0, 1.0, old=(-1.5, -1.75, -2.0))])
    log_probs = (micro.old_T + torch.tensor([0.4, 0.2, 0.9])).requires_grad_()
    part = PolicyGradient(
        (), (), AdvantageAwareShaping(gamma, clip=Clip(1.0, 1e9, importance_sampling_level="sequence"))
    )
    shaped_loss(micro, log_probs, part, LossSettings()).loss.backward()
    if gamma == "none":
        wanted = [-math.exp(0.5 - 0.25 / 3)] * 3
    else:
        p = math.exp(-2.0 + 0.9)
        wanted = [-math.exp(0.3 - 0.125)] * 2 + [-p / (p - 0.00025)]
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx(wanted, rel=1e-5)
