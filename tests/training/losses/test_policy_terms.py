"""Terms of any policy gradient: the entropy bonus, and KL in the advantage."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from rethink.models.forward.token_entropies import LogProbsAndEntropies
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, PolicyGradient
from rethink.training.losses.base import LossOutput, LossSettings
from rethink.training.losses.policy_terms import LogProbsAndEntropies as Values
from rethink.training.losses.policy_terms import with_entropy_bonus
from rethink.training.metrics import Statistics
from support.samples import Gradient, apply, gradient, make_trainer, mixed_part
from support.trained import moved


def difference(a: Gradient, b: Gradient) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_kl_in_the_advantage_has_the_gradient_of_k2(qwen: LanguageModel) -> None:
    """Guards against a penalty with the wrong sign or scale: before any step, with ratios of 1, k1 and k2 are the same."""
    start = moved(qwen)
    part = mixed_part(qwen.module, (0.0,), surrogate=Clip(0.9, 9.0), kl_coef=0.5)
    without = gradient(make_trainer(qwen), replace(part, kl_coef=0.0))
    found = {}
    for k in ("k1", "k2", "k3"):
        found[k] = gradient(make_trainer(qwen, lambda: start), replace(part, kl_estimator=k))
    assert difference(found["k2"], without) > 0.01, "the term must count"
    assert difference(found["k1"], found["k2"]) < 1e-5
    assert difference(found["k1"], found["k3"]) > 0.001


def test_the_entropy_bonus_by_hand() -> None:
    """Guards against the sign, and against a bonus that is not weighted as the tokens are.

    p is 1/2, 1/4, 1/4 for the first token, with an entropy of 1.5 log 2, and 1, 0, 0 for the second one."""
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, -1e4, -1e4]], dtype=torch.float64)
    found = LogProbsAndEntropies(logits, torch.tensor([1, 0]))
    log_probs, entropies = found.values
    assert log_probs.tolist() == pytest.approx([-2 * math.log(2), 0.0])
    assert entropies.tolist() == pytest.approx([1.5 * math.log(2), 0.0])

    def surrogate(*_: Any) -> LossOutput:
        return LossOutput(torch.tensor(3.0), Statistics())

    micro = cast(Any, SimpleNamespace(scale_T=torch.tensor([0.25, 0.5])))
    part = PolicyGradient((), (), entropy_coef=0.1)
    loss, _ = with_entropy_bonus(surrogate, micro, Values(log_probs, entropies), part, LossSettings())
    assert loss.item() == pytest.approx(3.0 - 0.1 * 0.25 * 1.5 * math.log(2))


def test_the_entropy_bonus_raises_the_entropy(qwen: LanguageModel) -> None:
    """Guards against the sign: with the bonus alone, a step makes the distributions flatter."""
    part = mixed_part(qwen.module, entropy_coef=1.0)
    part = replace(part, advantages=(0.0,) * len(part.samples))
    trainer = make_trainer(qwen, lr=0.01)
    first = apply(trainer, part, on_policy=False)["full_entropy_nats"]
    last = apply(trainer, part, on_policy=False)["full_entropy_nats"]
    assert last > first + 0.01
    plain = replace(part, entropy_coef=0.0, advantages=(1.0,) * len(part.samples))
    assert "full_entropy_nats" not in apply(trainer, plain, on_policy=False)
