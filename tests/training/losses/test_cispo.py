"""Log-probs weighted by clipped ratios, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rethink.objectives import CISPO
from rethink.training.losses.cispo import weighted_log_probs


@pytest.mark.parametrize(
    ("ratio", "advantage", "cispo", "weight"),
    [
        (1.5, 2.0, CISPO(1.0, 4.0), 1.5),
        (8.0, 2.0, CISPO(1.0, 4.0), 5.0),  # capped, whatever the sign of A
        (8.0, -2.0, CISPO(1.0, 4.0), 5.0),
        (0.01, 1.0, CISPO(1.0, 4.0), 0.01),  # no lower bound
        (0.01, 1.0, CISPO(0.2, 4.0), 0.8),
    ],
)
def test_by_hand(ratio: float, advantage: float, cispo: CISPO, weight: float) -> None:
    """Guards against a gradient through the weight, and clipped tokens that lose theirs: the slope is -A w."""
    old = torch.tensor([-3.0])
    log_probs = (old + math.log(ratio)).requires_grad_()
    tokens = weighted_log_probs(log_probs, old, torch.tensor([advantage]), cispo)
    tokens.loss_T.sum().backward()
    assert tokens.loss_T.tolist() == pytest.approx([-advantage * weight * (-3.0 + math.log(ratio))], rel=1e-5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-advantage * weight], rel=1e-5)
    assert (tokens.clipped_low_T.item(), tokens.clipped_high_T.item()) == (weight > ratio * 1.01, weight < ratio * 0.99)
