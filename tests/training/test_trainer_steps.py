"""The trainer: versions, failures, old log-probs and optimizer steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Clip, Imitate, PolicyGradient, Prefer
from rethink.policies.local import LocalPolicy
from rethink.training.trainer import Trainer
from rethink.types import Sampling
from support.random_models import save_random_model
from support.samples import (
    MIXED_WEIGHTS,
    apply,
    assert_same_gradient,
    gradient,
    gradient_of,
    make_prompt,
    make_trainer,
    mixed_samples,
    reply_of,
)
from support.trained import ROUNDING, at_ratio_one, bits, noisy, on_one_thread, recorded_hidden, same

_one_thread = pytest.fixture(scope="module", autouse=True)(on_one_thread)


# Versions and failures


def test_stale_samples_are_refused(qwen: LanguageModel) -> None:
    """Guards against refinements drawn before the solve update being trained as on-policy."""
    trainer = make_trainer(qwen)
    part = PolicyGradient((reply_of(2), reply_of(3, version=1)), (1.0, 1.0))
    before = bits(trainer)
    with pytest.raises(ValueError, match=r"version \[1\] for a policy of version 0"):
        apply(trainer, part)
    pair = Prefer((reply_of(2),), (reply_of(3, version=1),))
    with pytest.raises(ValueError, match=r"version \[1\] for a policy of version 0"):
        apply(trainer, pair)
    assert same(bits(trainer), before)
    assert (trainer.version, trainer.n_optimizer_steps) == (0, 0)
    apply(trainer, part, on_policy=False)
    assert (trainer.version, trainer.n_optimizer_steps) == (1, 1)
    with pytest.raises(ValueError, match=r"version \[0\] for a policy of version 1"):
        apply(trainer, part)


def assert_refused(trainer: Trainer, *weights: float) -> None:
    """An update of one group with these weights raises and leaves weights, optimizer and counters alone."""
    before = bits(trainer)
    with pytest.raises(FloatingPointError, match="the loss is"):
        apply(trainer, Imitate((reply_of(2),) * len(weights), weights))
    assert same(bits(trainer), before)
    assert not trainer.optimizer.state
    assert (trainer.version, trainer.n_optimizer_steps) == (0, 0)


def test_nan_weights_stop_the_update(qwen: LanguageModel) -> None:
    """Guards against a NaN that spreads to all weights and the optimizer's state."""
    trainer = make_trainer(qwen)
    with torch.no_grad():
        trainer.parameters[-1][0] = math.nan
    assert_refused(trainer, 1.0)


def test_an_infinite_gradient_stops_the_update(qwen: LanguageModel) -> None:
    """Guards against checking the loss only: it is finite here."""
    trainer = make_trainer(qwen)
    trainer.parameters[3].register_hook(lambda grad: grad * math.inf)
    assert_refused(trainer, 1.0)


def test_an_infinite_loss_stops_the_update(qwen: LanguageModel) -> None:
    """Guards against checking the gradient only: it is 0 here."""
    trainer = make_trainer(qwen)
    for p in trainer.parameters:
        p.register_hook(torch.zeros_like)
    assert_refused(trainer, math.inf)


def test_opposite_infinities_stop_the_update(qwen: LanguageModel) -> None:
    """Micro-batches with losses of inf and -inf used to raise the ValueError of `math.fsum`, which nobody expects."""
    assert_refused(make_trainer(qwen, micro_batch_tokens=1), math.inf, -math.inf)


# Old log-probs


def test_recomputed_log_probs_give_ratio_one_and_truncated_weights(qwen: LanguageModel) -> None:
    """Guards against a ratio to noisy log-probs that is clipped, and against factors that are turned over or uncut.

    Recomputed / sampler = exp(-noise) = 0.740818, 1.221403 and exp(1) = 2.718, truncated to 2. A sample of 2 tokens
    with A = 1 and one of 5 with A = -0.5: -(1.962221 - 0.5 * (2 * 1.962221 + 2)) / 7 = 0.142857 = 1/7.
    """
    trainer = make_trainer(qwen, old_log_probs="recomputed", tis_cap=2.0)
    samples = noisy(at_ratio_one(trainer, (reply_of(2), reply_of(5))), (0.3, -0.2, -1.0))
    numbers = apply(trainer, PolicyGradient(samples, (1.0, -0.5)))
    assert numbers["ratio"] == 1.0
    assert (numbers["clip_low_frac"], numbers["clip_high_frac"]) == (0.0, 0.0)
    assert numbers["loss"] == pytest.approx(1 / 7, rel=1e-5)
    # The mismatch is measured to the sampler, before any correction: gaps of 0.3, 0.2; 0.3, 0.2, 1.0, 0.3, 0.2.
    assert numbers["mismatch/log_prob_gap"] == pytest.approx(2.5 / 7, rel=1e-5)


def test_recomputed_log_probs_keep_to_the_weights_before_the_first_step(qwen: LanguageModel) -> None:
    """Guards against recomputing at each optimizer step, which would make every ratio 1."""
    trainer = make_trainer(qwen, old_log_probs="recomputed", lr=0.01)
    samples = at_ratio_one(trainer, (reply_of(2, group="a"), reply_of(5, group="b")))
    first = trainer.log_probs(samples[1:])[0]
    numbers = apply(trainer, PolicyGradient(samples, (1.0, 1.0), Clip(1.0, 1e9)), n_steps=2)
    other = make_trainer(qwen, lr=0.01)
    apply(other, PolicyGradient(samples[:1], (1.0,), Clip(1.0, 1e9)))
    second = other.log_probs(samples[1:])[0]
    assert numbers["ratio"] == pytest.approx((2 + float((second - first).exp().sum())) / 7, rel=1e-5)
    assert abs(numbers["ratio"] - 1) > 1e-3


def test_exact_sampler_log_probs_make_both_settings_agree(qwen: LanguageModel) -> None:
    """Guards against a second correction where there is nothing to correct; bit for bit. Forced tokens keep theirs."""
    holes = reply_of(7, mask=(True, False, True, True, False, True, True), temperature=0.7)
    trainers = [make_trainer(qwen, old_log_probs=setting) for setting in ("sampler", "recomputed")]
    log_probs = iter(trainers[0].log_probs([reply_of(2), holes])[1].tolist())
    holes = replace(holes, log_probs=tuple(next(log_probs) if chosen else -50.0 for chosen in holes.mask))
    part = PolicyGradient((*at_ratio_one(trainers[0], (reply_of(2),)), holes), (1.0, -0.5))
    assert apply(trainers[0], part) == pytest.approx(apply(trainers[1], part), rel=1e-6, abs=1e-6)
    grads = [gradient_of(trainer.model.module) for trainer in trainers]
    assert_same_gradient(grads[1], grads[0], ROUNDING)


# Sampler and trainer


def test_sampler_and_trainer_agree_at_mixed_temperatures(any_model: LanguageModel) -> None:
    """Guards against scoring that ignores the temperature, and against caches or padding that shift it (10, 12, 17)."""
    prompts = [make_prompt("a"), make_prompt("b", seed=5)]
    policies = [LocalPolicy(any_model, Sampling(t, max_tokens=11)) for t in (1.0, 0.7)]
    samples = [s for policy in policies for group in policy.sample(prompts, 3) for s in group]
    got = make_trainer(any_model, micro_batch_tokens=61).log_probs(samples)
    assert len(samples) == 12
    for sample, log_probs in zip(samples, got, strict=True):
        # Float32 with a cache against float32 without: a few roundings of logits of order 10.
        torch.testing.assert_close(log_probs, torch.tensor(sample.log_probs), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("qwen3", {"attention_dropout": 0.5}),
        ("llama", {"attention_dropout": 0.5}),
    ],
)
def test_dropout_is_off(tmp_path: Path, kind: str, rates: dict[str, float]) -> None:
    """Guards against dropout while scoring or training: two runs are equal bit for bit, and to none."""
    dropping = load_model(str(save_random_model(tmp_path / "with", kind, **rates)))
    without = load_model(str(save_random_model(tmp_path / "without", kind, **dict.fromkeys(rates, 0.0))))
    assert all(getattr(dropping.config, name) == 0.5 for name in rates)
    trainers = [make_trainer(model) for model in (dropping, dropping, without)]
    scores = [trainer.log_probs([reply_of(7)])[0] for trainer in trainers]
    for trainer in trainers:
        apply(trainer, Imitate((reply_of(7),), (1.0,)))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    assert same(bits(trainers[0]), bits(trainers[1]))
    assert same(bits(trainers[0]), bits(trainers[2]))


# The optimizer


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [0.6] * 7),
        ({"schedule": "linear"}, [0.6, 0.48, 0.36, 0.24, 0.12, 0.0, 0.0]),  # 0.6 (1 - k / 5), and 0 from there on
        # 0.3 (1 + cos(k pi / 5)): cosines of 36 and 72 degrees are 0.809017 and 0.309017.
        ({"schedule": "cosine"}, [0.6, 0.5427051, 0.3927051, 0.2072949, 0.0572949, 0.0, 0.0]),
        ({"warmup_updates": 3}, [0.15, 0.3, 0.45, 0.6, 0.6, 0.6, 0.6]),  # 0.6 (k + 1) / 4
        # The product: 0.6 x (1/4, 2/4, 3/4, 1, 1, 1, 1) x (1, 0.8, 0.6, 0.4, 0.2, 0, 0)
        ({"schedule": "linear", "warmup_updates": 3}, [0.15, 0.24, 0.27, 0.24, 0.12, 0.0, 0.0]),
    ],
)
def test_learning_rates_by_hand(qwen: LanguageModel, settings: dict[str, Any], rates: list[float]) -> None:
    """Guards against a schedule that starts at 0, ends early, turns negative, or counts optimizer steps."""
    trainer = make_trainer(qwen, lr=0.6, n_updates=5, **settings)
    found = []
    for _ in rates:
        found.append(apply(trainer, PolicyGradient((), ()), n_steps=3)["lr"])
        assert trainer.optimizer.param_groups[0]["lr"] == found[-1]
    assert found == pytest.approx(rates, abs=1e-7)


def test_the_first_step_of_adamw_by_hand(qwen: LanguageModel) -> None:
    """Guards against a learning rate or decay that never arrives.

    At the first step both moments, bias corrected, are those of the gradient itself:
    p (1 - lr decay) - lr g / (|g| + 1e-8).
    """
    trainer = make_trainer(qwen, lr=0.01, weight_decay=0.5)
    before = [p.detach().double() for p in trainer.parameters]
    apply(trainer, Imitate((reply_of(5),), (1.0,)))
    for old, p in zip(before, trainer.parameters, strict=True):
        assert p.grad is not None
        g = p.grad.double()
        expected = old * (1 - 0.01 * 0.5) - 0.01 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped_to_its_limit(qwen: LanguageModel) -> None:
    """Guards against a clip per parameter or micro-batch, and against a logged norm from after the clip."""
    part = Imitate((reply_of(5), reply_of(2)), (1.0, 1.0))
    free = gradient(make_trainer(qwen), part)
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in free.values()))
    trainer = make_trainer(qwen, max_grad_norm=0.125, micro_batch_tokens=1)
    assert norm > 0.25
    assert apply(trainer, part)["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), {n: g * 0.125 / norm for n, g in free.items()}, ROUNDING)


def test_bfloat16_autocast_is_close_and_keeps_float32_weights(any_model: LanguageModel) -> None:
    """Guards against an autocast that changes the weights' dtype, is never entered, or covers the log-softmax."""
    part = Imitate(mixed_samples(), (1.0,) * len(MIXED_WEIGHTS))
    plain, cast = make_trainer(any_model), make_trainer(any_model, autocast="bfloat16")
    with recorded_hidden(cast.model) as seen:
        apply(cast, part)
    assert {p.dtype for p in cast.parameters} == {torch.float32}
    assert {g.dtype for g in gradient_of(cast.model.module).values()} == {torch.float32}
    assert len(seen) == 1
    one, two = (
        torch.cat([g.flatten() for g in x.values()]) for x in (gradient(plain, part), gradient_of(cast.model.module))
    )
    cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    assert 0.99 < cosine < 0.9999999
