"""The trainer: losses and gradients against brute force, invariances, versions, failures and optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import AdvantageAwareShaping, Clip, Imitate, PolicyGradient, Prefer, Update
from rethink.training.alarms import mismatches
from rethink.training.trainer import Trainer
from support.random_models import save_random_model
from support.samples import (
    MIXED_WEIGHTS,
    apply,
    as_sampled,
    assert_same_gradient,
    exact,
    factors,
    gradient,
    gradient_of,
    make_sample,
    make_trainer,
    mixed_part,
    mixed_samples,
    reference_imitate,
    reference_log_probs,
    reference_policy_gradient,
    reference_prefer,
    reply_of,
)
from support.trained import (
    FLOAT32,
    ROUNDING,
    Mean,
    at_ratio_one,
    bits,
    expected_gradient,
    moved,
    noisy,
    same,
    some_pairs,
)

CLIP = Clip(0.2, 0.28, 3.0)
SEQUENCE = replace(CLIP, importance_sampling_level="sequence")
BY_SEQUENCE = {"loss_aggregation": "sequence"}
STRONG = AdvantageAwareShaping(strength=0.3, cap=3.0, guard=0.05, clip=CLIP)
WIDE = Clip(1.0, 1e9)
"""Clips nothing."""


def test_log_probs_equal_a_plain_forward_pass(any_model: LanguageModel) -> None:
    """Guards against shifted targets, rows that see one another, and a lost order of samples."""
    module, samples = exact(any_model), mixed_samples()
    got = make_trainer(any_model, micro_batch_tokens=29).log_probs(samples)
    for sample, log_probs in zip(samples, got, strict=True):
        assert log_probs.dtype == torch.float32
        expected = reference_log_probs(module, sample).detach() if sample.n_trained else torch.empty(0).double()
        # Log-probs down to -20 nats from float32 logits of the same size.
        torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("mean", "kl_coef"), [("token", 0.0), ("sequence", 0.7), ("constant", 0.0)])
def test_policy_gradient_equals_brute_force(any_model: LanguageModel, mean: Mean, kl_coef: float) -> None:
    """Guards against wrong tokens, masks, temperatures, clips, advantages, denominators, chunks and KL terms."""
    module, initial = exact(any_model), exact(moved(any_model))
    part = mixed_part(module, loss_aggregation=mean, constant_length=13, coefficient=3.0, kl_coef=kl_coef)
    trainer = make_trainer(any_model, initial=lambda: moved(any_model), micro_batch_tokens=23, chunk_tokens=7)
    loss = reference_policy_gradient(module, part, initial)
    # Terms of order 1 cancel to 0.001 in the mean over sequences, hence an absolute tolerance.
    assert apply(trainer, part)["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def spliced(part: PolicyGradient) -> PolicyGradient:
    """Return the mixed part with the last tokens of three samples forced, without log-probs."""
    samples = []
    for sample, n_forced in zip(part.samples, (2, 3, 0, 0, 0, 1), strict=True):
        n = len(sample.ids) - n_forced
        log_probs = (*sample.log_probs[:n], *(math.nan,) * n_forced)
        samples.append(replace(sample, forced=(False,) * n + (True,) * n_forced, log_probs=log_probs))
    return replace(part, samples=tuple(samples))


def per_token(part: PolicyGradient) -> PolicyGradient:
    """Return the part with advantages per token, whose signs change within a sample."""
    advantages = []
    for sample, advantage in zip(part.samples, factors(part), strict=True):
        advantages.append(tuple(advantage * (1 - t) if t else 0.0 for t in range(len(sample.ids))))
    return replace(part, advantages=tuple(advantages))


SURROGATES: dict[str, tuple[Callable[[PolicyGradient], PolicyGradient], dict[str, Any]]] = {
    "aware": (spliced, {"surrogate": STRONG, "kl_coef": 0.7}),
    "released": (spliced, {"surrogate": replace(STRONG, gamma="released")}),
    "constant": (spliced, {"surrogate": replace(STRONG, gamma="constant")}),
    "none": (spliced, {"surrogate": replace(STRONG, gamma="none")}),
    "sequence": (lambda part: part, {"surrogate": SEQUENCE}),
    "sequence, none": (spliced, {"surrogate": replace(STRONG, gamma="none", clip=SEQUENCE), **BY_SEQUENCE}),
    "sequence, aware": (spliced, {"surrogate": replace(STRONG, clip=SEQUENCE)}),
    "per token": (per_token, BY_SEQUENCE),
}


@pytest.mark.parametrize("case", SURROGATES)
def test_other_surrogates_equal_brute_force(case: str, qwen: LanguageModel) -> None:
    """Guards against forced tokens at the wrong place, ratios over others' tokens, and NaN from unknown log-probs."""
    module = exact(qwen)
    change, settings = SURROGATES[case]
    part = change(mixed_part(module, **settings))
    trainer = make_trainer(qwen, lambda: moved(qwen), micro_batch_tokens=29)
    assert math.isfinite(apply(trainer, part)["loss"])
    loss = reference_policy_gradient(module, part, exact(moved(qwen)))
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def test_imitation_equals_brute_force(any_model: LanguageModel) -> None:
    """Guards against the sum of weights as denominator, and NaN from log-probs that imitation does not need."""
    module = exact(any_model)
    unknown = tuple(replace(s, log_probs=(math.nan,) * len(s.ids)) for s in mixed_samples())
    part = Imitate(unknown, (1.0, 0.5, 0.0, 1.0, 1.0, -0.25), coefficient=3.0)
    trainer = make_trainer(any_model, micro_batch_tokens=29)
    loss = reference_imitate(module, part)
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


@pytest.mark.parametrize("micro_batch_tokens", [1, 23])
def test_preference_equals_brute_force(qwen: LanguageModel, micro_batch_tokens: int) -> None:
    """Guards against pairs split by micro-batches or sorted by length, and empty replies, whose log-ratio is 0."""
    module, initial = exact(qwen), exact(moved(qwen))
    trainer = make_trainer(qwen, lambda: moved(qwen), micro_batch_tokens=micro_batch_tokens)
    part, nothing = some_pairs(), make_sample(())
    part = replace(part, chosen=(nothing, *part.chosen), rejected=(reply_of(3), *part.rejected))
    loss = reference_prefer(module, part, initial)
    part = replace(part, chosen=(nothing, *part.chosen), rejected=(nothing, *part.rejected))  # this pair is skipped
    assert apply(trainer, part)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def test_parts_have_separate_denominators(qwen: LanguageModel) -> None:
    """Guards against a denominator that parts share: the joint gradient is the sum of the separate ones."""
    parts = (mixed_part(qwen.module), Imitate((reply_of(7), reply_of(3)), (1.0, 0.5)), some_pairs())
    joint = gradient(make_trainer(qwen, lambda: moved(qwen)), *parts)
    separate = [gradient(make_trainer(qwen, lambda: moved(qwen)), part) for part in parts]
    assert_same_gradient(joint, {name: sum(g[name] for g in separate) for name in joint}, ROUNDING)  # type: ignore[misc]


def test_empty_parts_and_updates_without_gradient(qwen: LanguageModel) -> None:
    """Guards against 0/0, an empty part that changes another, and weight decay without any gradient."""
    part = mixed_part(qwen.module)
    one, two = make_trainer(qwen), make_trainer(qwen)
    empty = (PolicyGradient((), ()), Imitate((), ()), Prefer((), ()))
    assert apply(one, part) == apply(two, *empty[:2], part, empty[2])
    assert same(bits(one), bits(two))
    trainer = make_trainer(qwen, weight_decay=0.5, lr=0.1)
    before = bits(trainer)
    metrics = apply(trainer, PolicyGradient((reply_of(2), reply_of(3, group="b")), (0.0, 0.0)), n_steps=2)
    assert metrics == {"loss": 0.0, "lr": 0.1}
    assert same(bits(trainer), before)
    assert (trainer.version, trainer.n_optimizer_steps) == (1, 0)


def test_samples_must_have_exactly_the_given_lag(qwen: LanguageModel) -> None:
    """Guards against refinements drawn before the solve update, and a lag that excuses every old sample."""
    trainer = make_trainer(qwen)
    trainer.version = 3
    part = PolicyGradient((reply_of(2, version=2), reply_of(3, version=2)), (1.0, -1.0))
    mixed = replace(part, samples=(part.samples[0], reply_of(3, version=3)))
    pair = Prefer((reply_of(2, version=3),), (reply_of(3, version=2),))
    before = bits(trainer)
    for wrong, lag in ((part, 0), (part, 2), (mixed, 1), (mixed, 0), (pair, 0)):
        with pytest.raises(ValueError, match=f"for a policy of version 3{f' with a lag of {lag}' if lag else ''};"):
            trainer.apply(Update("test", (wrong,)), lag=lag)
    assert same(bits(trainer), before)
    assert (trainer.version, trainer.n_optimizer_steps) == (3, 0)
    trainer.apply(Update("test", (part,)), lag=1)
    apply(trainer, mixed, on_policy=False)
    assert (trainer.version, trainer.n_optimizer_steps) == (5, 2)


@pytest.mark.parametrize("old_log_probs", ["sampler", "recomputed"])
def test_lag_changes_no_gradient_and_raises_no_alarm(qwen: LanguageModel, old_log_probs: str) -> None:
    """Guards against an objective that depends on the lag, and alarms for log-probs that the lag explains."""
    samples = tuple(as_sampled(qwen.module, reply_of(n), (0.5, -0.5)) for n in (3, 5, 7))
    found = []
    for lag in (0, 1):
        trainer = make_trainer(qwen, lr=0.01, old_log_probs=old_log_probs)
        trainer.version = 1
        old = tuple(replace(s, version=1 - lag) for s in samples)
        metrics = trainer.apply(Update("test", (PolicyGradient(old, (1.0, -0.5, 0.25)),)), lag=lag)
        found.append((bits(trainer), metrics))
    (weights, metrics), (lagged_weights, lagged) = found
    assert same(weights, lagged_weights)
    assert (len(mismatches(metrics)), mismatches(lagged)) == (2, [])
    assert {key.replace("lag/", "mismatch/"): value for key, value in lagged.items()} == metrics


def nan_weight(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.parameters[-1][0] = math.nan


def infinite_gradient(trainer: Trainer) -> None:
    trainer.parameters[3].register_hook(lambda grad: grad * math.inf)


def no_gradient(trainer: Trainer) -> None:
    for p in trainer.parameters:
        p.register_hook(torch.zeros_like)


@pytest.mark.parametrize(
    ("break_trainer", "weights"),
    [
        (nan_weight, (1.0,)),
        (infinite_gradient, (1.0,)),  # the loss is finite
        (no_gradient, (math.inf,)),  # the gradient is 0
        (lambda _: None, (math.inf, -math.inf)),  # math.fsum raised ValueError for these micro-batches
    ],
)
def test_numbers_that_are_not_finite_stop_the_update(
    qwen: LanguageModel,
    break_trainer: Callable[[Trainer], None],
    weights: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against checking loss or gradient only, and NaN that spreads to weights and optimizer state."""
    monkeypatch.setattr(Imitate, "check", lambda _: None)  # it refuses such weights
    trainer = make_trainer(qwen, micro_batch_tokens=1)
    break_trainer(trainer)
    before = bits(trainer)
    with pytest.raises(FloatingPointError, match="the loss is"):
        apply(trainer, Imitate((reply_of(2),) * len(weights), weights))
    assert same(bits(trainer), before)
    assert not trainer.optimizer.state
    assert (trainer.version, trainer.n_optimizer_steps) == (0, 0)


def test_recomputed_log_probs_by_hand(qwen: LanguageModel) -> None:
    """Guards against a ratio to noisy log-probs that is clipped, and importance ratios inverted or not truncated.

    Importance a, b, 2 = exp(-noise), truncated: loss -(a + b - 0.5 (2 (a + b) + 2)) / 7 = 1/7."""
    trainer = make_trainer(qwen, old_log_probs="recomputed", importance_sampling_clip_max=2.0)
    samples = noisy(at_ratio_one(trainer, (reply_of(2), reply_of(5))), (0.3, -0.2, -1.0))
    metrics = apply(trainer, PolicyGradient(samples, (1.0, -0.5)))
    assert (metrics["ratio"], metrics["clip_low_frac"], metrics["clip_high_frac"]) == (1.0, 0.0, 0.0)
    assert metrics["loss"] == pytest.approx(1 / 7, rel=1e-5)
    # The mismatch is measured before any correction: gaps of 0.3, 0.2; 0.3, 0.2, 1.0, 0.3, 0.2.
    assert metrics["mismatch/log_prob_gap"] == pytest.approx(2.5 / 7, rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "low", "high", "loss"),
    [
        # As above with exp(1) in place of 2: -(a + b - 0.5 (2 (a + b) + e)) / 7.
        ("token_truncate", 0.0, math.inf, 0.5 * math.e / 7),
        # exp(1) is above 2 and counts 0: -(a + b - 0.5 * 2 (a + b)) / 7.
        ("token_mask", 0.0, 2.0, 0.0),
        # Only b = exp(0.2) is within the bounds: -(b - 0.5 * 2 b) / 7, and a = exp(-0.3) within the others.
        ("token_mask", 1.1, 1.3, 0.0),
        ("token_mask", 0.5, 5.0, 0.5 * math.e / 7),  # IcePop
        # Products: exp(-0.1) and exp(0.8). -(2 exp(-0.1) - 0.5 * 5 exp(0.8)) / 7.
        ("sequence_truncate", 0.0, 3.0, -(2 * math.exp(-0.1) - 2.5 * math.exp(0.8)) / 7),
        ("sequence_truncate", 0.0, 2.0, -(2 * math.exp(-0.1) - 2.5 * 2) / 7),
        ("sequence_truncate", 1.5, 2.0, -(2 * 1.5 - 2.5 * 2) / 7),
        ("sequence_mask", 0.0, 2.0, -2 * math.exp(-0.1) / 7),
        ("sequence_mask", 0.95, 3.0, 2.5 * math.exp(0.8) / 7),
        # No weight: the mean of -A.
        ("none", 0.0, 2.0, -(2 - 0.5 * 5) / 7),
    ],
)
def test_importance_weights_by_hand(qwen: LanguageModel, mode: str, low: float, high: float, loss: float) -> None:
    """Guards against modes that do the same, means in place of products, and masked tokens that leave the denominator."""
    trainer = make_trainer(
        qwen,
        old_log_probs="recomputed",
        importance_sampling_mode=mode,
        importance_sampling_clip_max=high,
        importance_sampling_clip_min=low,
    )
    samples = noisy(at_ratio_one(trainer, (reply_of(2), reply_of(5))), (0.3, -0.2, -1.0))
    metrics = apply(trainer, PolicyGradient(samples, (1.0, -0.5)))
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert metrics["grad_norm"] > 0
    assert ("importance_weight" in metrics) == (mode != "none")
    assert ("importance_masked_frac" in metrics) == (mode in ("token_mask", "sequence_mask"))


def test_the_share_of_masked_tokens(qwen: LanguageModel) -> None:
    """Guards against a share of replies: of weights a b, a b e a b, one of seven is above 2."""
    trainer = make_trainer(qwen, old_log_probs="recomputed", importance_sampling_mode="token_mask")
    samples = noisy(at_ratio_one(trainer, (reply_of(2), reply_of(5))), (0.3, -0.2, -1.0))
    metrics = apply(trainer, PolicyGradient(samples, (1.0, -0.5)))
    assert metrics["importance_masked_frac"] == pytest.approx(1 / 7)
    assert metrics["importance_weight"] == pytest.approx(3 * (math.exp(-0.3) + math.exp(0.2)) / 7, rel=1e-5)


def test_forced_tokens_keep_their_first_log_probs(qwen: LanguageModel) -> None:
    """Guards against recomputing forced tokens at each optimizer step: their ratios move away from 1."""
    trainer, other = make_trainer(qwen, lr=0.01), make_trainer(qwen, lr=0.01)
    samples = at_ratio_one(trainer, (reply_of(2, group="a"), reply_of(5, group="b")))
    forced = tuple(replace(s, forced=(True,) * len(s.ids), log_probs=(math.nan,) * len(s.ids)) for s in samples)
    wide = AdvantageAwareShaping("none", clip=WIDE)
    metrics = apply(trainer, PolicyGradient(forced, (1.0, 1.0), wide), n_steps=2)
    known = apply(other, PolicyGradient(samples, (1.0, 1.0), wide), n_steps=2)
    assert metrics["ratio"] == pytest.approx(known["ratio"], rel=1e-6)
    assert abs(metrics["ratio"] - 1) > 1e-3
    assert same(bits(trainer), bits(other))


@pytest.mark.parametrize(
    ("kind", "rates"),
    [("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}), ("qwen3", {"attention_dropout": 0.5})],
)
def test_dropout_is_off(tmp_path: Path, kind: str, rates: dict[str, float]) -> None:
    """Guards against dropout in scoring or training: two runs are equal bit for bit, also to one without dropout."""
    dropping = load_model(str(save_random_model(tmp_path / "with", kind, **rates)))
    without = load_model(str(save_random_model(tmp_path / "without", kind, **dict.fromkeys(rates, 0.0))))
    assert all(getattr(dropping.config, name) == 0.5 for name in rates)
    trainers = [make_trainer(model) for model in (dropping, dropping, without)]
    scores = [trainer.log_probs([reply_of(7)])[0] for trainer in trainers]
    for trainer in trainers:
        apply(trainer, Imitate((reply_of(7),), (1.0,)))
    for k in (1, 2):
        assert torch.equal(scores[0], scores[k])
        assert same(bits(trainers[0]), bits(trainers[k]))


def test_optimizer_steps_take_whole_groups(qwen: LanguageModel) -> None:
    """Guards against groups split by position: two steps over a b a b are one over a and one over b."""
    part = mixed_part(qwen.module)
    stepwise, separate = make_trainer(qwen, lr=0.01), make_trainer(qwen, lr=0.01)
    apply(stepwise, part, n_steps=2)
    for group in "ab":
        apply(separate, part.select([i for i, s in enumerate(part.samples) if s.problem.id == group]), on_policy=False)
    assert same(bits(stepwise), bits(separate))
    assert (stepwise.version, stepwise.n_optimizer_steps) == (1, 2)


def test_more_optimizer_steps_than_groups(qwen: LanguageModel) -> None:
    """Guards against a step of momentum and decay on an empty share, and a mismatch measured after the first step."""
    trainer = make_trainer(qwen, lr=0.1)
    samples = at_ratio_one(trainer, tuple(reply_of(n, group=g) for n, g in ((2, "a"), (3, "b"), (5, "c"))))
    metrics = apply(trainer, PolicyGradient(samples, (1.0, -0.5, 0.25)), n_steps=4)
    assert (trainer.version, trainer.n_optimizer_steps) == (1, 3)
    # The first share is empty. After a step of 0.1 the gap would be of the order of nats.
    assert metrics["mismatch/log_prob_gap_max"] < 1e-4


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [0.6] * 7),
        ({"schedule": "linear"}, [0.6, 0.48, 0.36, 0.24, 0.12, 0.12, 0.12]),
        ({"schedule": "cosine"}, [0.6, 0.5427051, 0.3927051, 0.2072949, 0.0572949, 0.0572949, 0.0572949]),
        ({"schedule": "linear", "warmup_updates": 3}, [0.15, 0.24, 0.27, 0.24, 0.12, 0.12, 0.12]),
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


def test_gradient_is_clipped_to_max_grad_norm(qwen: LanguageModel) -> None:
    """Guards against a clip per parameter or micro-batch, and a logged norm from after the clip."""
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
    exact_gradient, trainer = gradient(make_trainer(any_model), part), make_trainer(any_model, autocast="bfloat16")
    found = gradient(trainer, part)
    assert {p.dtype for p in trainer.parameters} | {g.dtype for g in found.values()} == {torch.float32}
    one, two = (torch.cat([g.flatten() for g in x.values()]) for x in (exact_gradient, found))
    cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    assert 0.99 < cosine < 0.9999999
