"""DPO by hand: loss, slopes, statistics and pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rethink.objectives import Prefer
from rethink.training.losses import LossSettings
from rethink.training.losses.prefer import paired_samples, prefer_loss
from rethink.training.micro_batch import TrainingSample, lay_out
from support.samples import make_sample, reply_of

NOTHING_TRAINED = (make_sample(()), make_sample((8, 9), mask=(False, False)))


def test_preference_by_hand() -> None:
    """Guards against a wrong sign, a beta outside the sigmoid, statistics of the wrong side, and overflow.

    Margins 0, 0.5 (4 - 1) and 0.5 (-1000 - 1000); 0.201413 = log(1 + exp(-1.5)), 0.091213 = 0.5 sigmoid(-1.5)."""
    chosen, rejected = ((5.0, 2.0), (3.0, 1.0), (-400.0, -600.0)), ((7.0,), (1.0,), (1000.0,))
    samples = []
    for pair in zip(chosen, rejected, strict=True):
        samples += [TrainingSample(make_sample((7,) * len(values)), scale=2 / 3) for values in pair]
    micro = lay_out(samples)
    values = [torch.tensor(pair[k]) for pair in zip(chosen, rejected, strict=True) for k in (0, 1)]
    reference = torch.full_like(micro.old_T, -1.0)
    log_probs = (torch.cat([values[i] for i in micro.order]) + reference).requires_grad_()
    part = Prefer(tuple(s.sample for s in samples[0::2]), tuple(s.sample for s in samples[1::2]), beta=0.5)
    loss, statistics = prefer_loss(replace(micro, reference_T=reference), log_probs, part, LossSettings())
    loss.backward()
    assert loss.item() == pytest.approx(2 / 3 * (math.log(2) + 0.201413 + 1000.0), rel=1e-5)
    assert log_probs.grad is not None
    slopes = [s.tolist() for s in micro.by_sample(log_probs.grad * 3 / 2)]
    wanted = [([-x] * 2, [x]) for x in (0.25, 0.091213, 0.5)]
    assert slopes == [pytest.approx(side, rel=1e-5) for pair in wanted for side in pair]
    assert statistics.metrics() == {
        "preference/accuracy": pytest.approx(1 / 3),
        "preference/chosen_log_prob": pytest.approx((5 + 2 - 1002) / 3, rel=1e-6),
        "preference/margin": pytest.approx((0 + 1.5 - 1000) / 3, rel=1e-6),
        "preference/n_pairs": 3,
        "preference/rejected_log_prob": pytest.approx((6 + 0 + 999) / 3, rel=1e-6),
    }


def test_scale_is_the_mean_over_pairs() -> None:
    """Guards against a mean over samples (6) or tokens: the scale is coefficient / pairs = 2 / 3."""
    chosen = (reply_of(2), reply_of(3), NOTHING_TRAINED[0], reply_of(5))
    rejected = (reply_of(7), NOTHING_TRAINED[0], NOTHING_TRAINED[1], reply_of(3))
    found = paired_samples(Prefer(chosen, rejected, coefficient=2.0))
    pairs = [(chosen[k], rejected[k]) for k in (0, 1, 3)]
    assert [(c.sample, r.sample) for c, r in zip(found[0::2], found[1::2], strict=True)] == pairs
    assert {one.scale for one in found} == {2 / 3}
    assert paired_samples(Prefer(NOTHING_TRAINED, NOTHING_TRAINED)) == []
