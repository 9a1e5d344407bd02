"""Importance weights by hand. test_trainer.py has them in losses."""

from __future__ import annotations

import math

import pytest
import torch

from rethink.training.losses import LossSettings
from rethink.training.losses.importance import importance_weights
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from support.samples import make_sample


def two_replies() -> MicroBatch:
    """Return replies with log-weights 0.5, -0.25, 1.0 (sum 1.25) and -2.0, 0.5 (sum -1.5), in this order."""
    three = make_sample((7, 8, 1), log_probs=(-1.0, -1.0, -2.0))
    two = make_sample((9, 1), log_probs=(-1.0, -2.0))
    return lay_out(
        [TrainingSample(two, 1.0, 1.0, old=(-3.0, -1.5)), TrainingSample(three, 1.0, 1.0, old=(-0.5, -1.25, -1.0))]
    )


def exps(*logs: float | None) -> list[float]:
    return [0.0 if log is None else math.exp(log) for log in logs]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (LossSettings("none", 2.0), exps(0, 0, 0, 0, 0)),
        # exp(0.5) = 1.65, exp(-0.25) = 0.78, exp(1) = 2.72, exp(-2) = 0.14.
        (LossSettings("token_truncate", 2.0), exps(0.5, -0.25, math.log(2), -2, 0.5)),
        (LossSettings("token_truncate", 2.0, 0.5), exps(0.5, -0.25, math.log(2), math.log(0.5), 0.5)),
        (LossSettings("token_mask", 2.0), exps(0.5, -0.25, None, -2, 0.5)),
        (LossSettings("token_mask", 5.0, 0.5), exps(0.5, -0.25, 1, None, 0.5)),  # IcePop's bounds
        # exp(1.25) = 3.49, exp(-1.5) = 0.22.
        (LossSettings("sequence_truncate", 2.0), exps(math.log(2), math.log(2), math.log(2), -1.5, -1.5)),
        (LossSettings("sequence_mask", 2.0), exps(None, None, None, -1.5, -1.5)),
        (LossSettings("sequence_mask", math.inf, 0.5), exps(1.25, 1.25, 1.25, None, None)),
    ],
)
def test_by_hand(settings: LossSettings, wanted: list[float]) -> None:
    """Guards against inverted weights, means in place of products, and products over the micro-batch."""
    assert importance_weights(two_replies(), settings).tolist() == pytest.approx(wanted, rel=1e-5)


def test_products_over_some_tokens() -> None:
    """Guards against shaped tokens in the product of the others: 0.5 + 1.0 and -2.0."""
    counts = torch.tensor([True, False, True, True, False])
    found = importance_weights(two_replies(), LossSettings("sequence_truncate", math.inf), counts)
    assert found[counts].tolist() == pytest.approx(exps(1.5, 1.5, -2), rel=1e-5)


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_truncate"])
def test_huge_weights_stay_finite(mode: str) -> None:
    """Guards against a product of infinity, which makes the loss NaN where the advantage is 0."""
    sample = make_sample((7, 8, 1), log_probs=(-900.0, -900.0, -900.0))
    micro = lay_out([TrainingSample(sample, 1.0, 1.0, old=(-1.0, -1.0, -1.0))])
    found = importance_weights(micro, LossSettings(mode, math.inf))  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([math.exp(20)] * 3, rel=1e-5)
