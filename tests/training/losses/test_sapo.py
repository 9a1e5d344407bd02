"""The soft gate of ratios, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rethink.objectives import SAPO
from rethink.training.losses.sapo import gated_surrogate


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        # At rho = 1, sigmoid(0) = 1/2: the gate is 2 / tau, and its slope 4 / 4 = 1, for every tau.
        (1.0, 3.0, -6.0, -3.0),
        (1.0, -3.0, 3.0, 3.0),
        # sigmoid(1) = 0.731059 and s (1 - s) = 0.196612. tau_pos = 1: -4 s; slope -rho 4 s (1 - s).
        (2.0, 1.0, -2.924234, -1.572896),
        # tau_neg = 2: sigmoid(-1) = 0.268941; 4 / 2 s = 0.537883; slope rho 4 s (1 - s).
        (0.5, -1.0, 0.537883, 0.393224),
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """Guards against swapped temperatures, a gate without its factor, and a hard clip."""
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    tokens = gated_surrogate(log_ratio, torch.tensor([advantage]), SAPO(tau_pos=1.0, tau_neg=2.0))
    tokens.loss_T.sum().backward()
    assert tokens.loss_T.tolist() == pytest.approx([loss], rel=1e-5)
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == pytest.approx([slope], rel=1e-5)
    assert tokens.ratio_T.tolist() == pytest.approx([ratio])
    assert not tokens.ratio_T.requires_grad


def test_far_ratios_have_almost_no_gradient() -> None:
    """Guards against overflow, and a gate that stays open: at rho = exp(20) the sigmoid is 1."""
    log_ratio = torch.tensor([1000.0, 3.0], requires_grad=True)
    tokens = gated_surrogate(log_ratio, torch.tensor([-1.0, -1.0]), SAPO())
    tokens.loss_T.sum().backward()
    assert tokens.loss_T.tolist() == pytest.approx([4 / 1.05] * 2, rel=1e-5)
    assert log_ratio.grad is not None
    assert log_ratio.grad.abs().max() < 1e-6
