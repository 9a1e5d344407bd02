"""The trainer: losses and gradients against brute force, invariances, versions, failures and optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import AdvantageAwareShaping, Clip, Imitate, PolicyGradient, Prefer, Update
from rethink.policies.local import LocalPolicy
from rethink.training import trainer as trainer_module
from rethink.training.metrics import alarms
from rethink.training.trainer import Trainer
from rethink.types import Sampling
from support.random_models import save_random_model
from support.samples import (
    MIXED_WEIGHTS,
    apply,
    as_sampled,
    assert_same_gradient,
    copied,
    exact,
    factors,
    gradient,
    gradient_of,
    make_prompt,
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
    Pass,
    at_ratio_one,
    bits,
    expected_gradient,
    moved,
    noisy,
    on_one_thread,
    recorded_hidden,
    same,
    some_pairs,
)

_one_thread = pytest.fixture(scope="module", autouse=True)(on_one_thread)

CLIP = Clip(0.2, 0.28, 3.0)
SEQUENCE = replace(CLIP, importance_sampling_level="sequence")
STRONG = AdvantageAwareShaping(strength=0.3, cap=3.0, guard=0.05, clip=CLIP)
WIDE = Clip(1.0, 1e9)
"""Clips nothing."""


# ----------------------------------------------------------------------------------------- against brute force


def test_log_probs_equal_a_plain_forward_pass(any_model: LanguageModel) -> None:
    """Guards against shifted targets, rows that see one another, and a lost order of samples."""
    module, samples = exact(any_model), mixed_samples()
    got = make_trainer(any_model, micro_batch_tokens=29).log_probs(samples)
    for sample, log_probs in zip(samples, got, strict=True):
        assert log_probs.dtype == torch.float32
        expected = reference_log_probs(module, sample).detach() if sample.n_trained else torch.empty(0).double()
        # Log-probs down to -20 nats from float32 logits of the same size.
        torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mean", ["token", "sequence", "constant"])
def test_policy_gradient_equals_brute_force(any_model: LanguageModel, mean: Mean) -> None:
    """Guards against wrong tokens, masks, temperatures, clips, advantages and denominators."""
    module = exact(any_model)
    part = mixed_part(module, loss_aggregation=mean, constant_length=13, coefficient=3.0)
    trainer = make_trainer(any_model)
    loss = reference_policy_gradient(module, part)
    # Terms of order 1 cancel to 0.001 in the mean over sequences, hence an absolute tolerance.
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def spliced(module: Any, **changes: Any) -> PolicyGradient:
    """Return the mixed part with the last tokens of three samples forced, without log-probs."""
    part = mixed_part(module, **changes)
    samples = []
    for sample, n_forced in zip(part.samples, (2, 3, 0, 0, 0, 1), strict=True):
        n = len(sample.ids) - n_forced
        log_probs = (*sample.log_probs[:n], *(math.nan,) * n_forced)
        samples.append(replace(sample, forced=(False,) * n + (True,) * n_forced, log_probs=log_probs))
    return replace(part, samples=tuple(samples))


@pytest.mark.parametrize("gamma", ["aware", "released", "constant", "none"])
def test_shaping_equals_brute_force(
    qwen: LanguageModel, gamma: Literal["aware", "released", "constant", "none"]
) -> None:
    """Guards against forced tokens at the wrong place or with another denominator, and NaN from unknown log-probs.

    The value of the shaped loss has no meaning; its gradient does."""
    module = exact(qwen)
    part = spliced(module, surrogate=replace(STRONG, gamma=gamma), kl_coef=0.7)
    trainer = make_trainer(qwen, lambda: moved(qwen), micro_batch_tokens=29)
    metrics = apply(trainer, part)
    loss = reference_policy_gradient(module, part, exact(moved(qwen)))
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    assert math.isfinite(metrics["loss"])
    # Chosen tokens have offsets up to 0.5 nats; those of 1.5 (place 4) are forced here.
    assert metrics["mismatch/log_prob_gap_max"] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(("gamma", "mean"), [(None, "token"), ("none", "sequence"), ("aware", "token")])
def test_sequence_ratios_equal_brute_force(
    qwen: LanguageModel, gamma: Literal["none", "aware"] | None, mean: Mean
) -> None:
    """Guards against ratios over tokens of another sample, masked or forced ones, and a gradient that is not GSPO's."""
    module = exact(qwen)
    part = mixed_part(module, surrogate=SEQUENCE, loss_aggregation=mean)
    if gamma is not None:
        part = spliced(module, surrogate=replace(STRONG, gamma=gamma, clip=SEQUENCE), loss_aggregation=mean)
    trainer = make_trainer(qwen, micro_batch_tokens=29)
    apply(trainer, part)
    loss = reference_policy_gradient(module, part)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def per_token(part: PolicyGradient, value: Callable[[float, int], float]) -> PolicyGradient:
    """Return the part with advantages per token, computed from the sample's advantage and the token's index."""
    advantages = []
    for sample, advantage in zip(part.samples, factors(part), strict=True):
        advantages.append(tuple(value(advantage, t) for t in range(len(sample.ids))))
    return replace(part, advantages=tuple(advantages))


def test_advantages_per_token_equal_brute_force(qwen: LanguageModel) -> None:
    """Guards against advantages at another token's place: signs change within a sample, masked tokens have some, too."""
    module = exact(qwen)
    part = per_token(mixed_part(module, loss_aggregation="sequence"), lambda a, t: a * (1 - t) if t else 0.0)
    trainer = make_trainer(qwen, micro_batch_tokens=29)
    loss = reference_policy_gradient(module, part)
    assert apply(trainer, part)["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def test_clip_fractions_by_hand(qwen: LanguageModel) -> None:
    """Guards against fractions over the wrong tokens.

    Chosen tokens: 5, 5, 2 and 3, of advantages 1, -0.75, -0.5 and 0.25, 15 in all. By place (from 0, with tokens that are
    not chosen) the ratios are 1, .61, 1.65, .90, 4.48, 1, .61. Above 1.28 with A > 0: places 2 and 4 of the first sample,
    place 2 of the last. Below 0.8 with A < 0: place 6 of the second sample (place 1 is masked), place 1 of the third.
    """
    metrics = apply(make_trainer(qwen), mixed_part(exact(qwen)))
    assert metrics["clip_high_frac"] == pytest.approx(3 / 15)
    assert metrics["clip_low_frac"] == pytest.approx(2 / 15)


def test_kl_to_the_initial_model_equals_brute_force(any_model: LanguageModel) -> None:
    """Guards against a KL to the current weights (gradient 0), a reversed one, or another denominator."""
    module, initial = exact(any_model), exact(moved(any_model))
    part = mixed_part(module, kl_coef=0.7, loss_aggregation="sequence")
    loss = reference_policy_gradient(module, part, initial)
    trainer = make_trainer(any_model, initial=lambda: moved(any_model))
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def test_initial_model_does_not_change(qwen: LanguageModel) -> None:
    """Guards against a start model that is the trained one: after a step the KL is above 0."""
    trainer = make_trainer(qwen, initial=lambda: copied(qwen), lr=0.01)
    part = mixed_part(qwen.module, kl_coef=0.5)
    assert apply(trainer, part)["kl_to_initial_nats"] == 0.0
    assert apply(trainer, part, on_policy=False)["kl_to_initial_nats"] > 1e-4
    assert same(list(trainer.initial.module.parameters()), list(qwen.module.parameters()))
    assert not any(p.requires_grad for p in trainer.initial.module.parameters())


def test_imitation_equals_brute_force(any_model: LanguageModel) -> None:
    """Guards against the sum of weights as denominator, and NaN from log-probs that imitation does not need."""
    module = exact(any_model)
    unknown = tuple(replace(s, log_probs=(math.nan,) * len(s.ids)) for s in mixed_samples())
    part = Imitate(unknown, (1.0, 0.5, 0.0, 1.0, 1.0, -0.25), coefficient=3.0)
    trainer = make_trainer(any_model, micro_batch_tokens=29)
    loss = reference_imitate(module, part)
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


@pytest.mark.parametrize("micro_batch_tokens", [1, 23, 10_000])
def test_preference_equals_brute_force(qwen: LanguageModel, micro_batch_tokens: int) -> None:
    """Guards against pairs split by micro-batches (of one, two or three pairs) or sorted by length, and their metrics."""
    module, initial = exact(qwen), exact(moved(qwen))
    trainer = make_trainer(qwen, lambda: moved(qwen), micro_batch_tokens=micro_batch_tokens)
    part = some_pairs()
    loss = reference_prefer(module, part, initial)
    metrics = apply(trainer, part)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    now, start = [[reference_log_probs(m, s).sum().item() for s in part.samples] for m in (module, initial)]
    ratios = [a - b for a, b in zip(now, start, strict=True)]
    margins = [part.beta * (ratios[k] - ratios[k + 3]) for k in range(3)]
    assert metrics["preference/n_pairs"] == 3
    assert metrics["preference/margin"] == pytest.approx(sum(margins) / 3, rel=1e-4)
    assert metrics["preference/accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 3)
    assert metrics["preference/chosen_log_prob"] == pytest.approx(sum(now[:3]) / 3, rel=1e-5)
    assert metrics["preference/rejected_log_prob"] == pytest.approx(sum(now[3:]) / 3, rel=1e-5)


def test_preference_of_an_empty_reply(qwen: LanguageModel) -> None:
    """A pair with an empty reply used to raise KeyError; its log-ratio is 0, and a pair of two empty ones is skipped."""
    module, initial = exact(qwen), exact(moved(qwen))
    part = Prefer((reply_of(5), make_sample(())), (make_sample(()), reply_of(3)), beta=0.3)
    loss = reference_prefer(module, part, initial)
    nothing = make_sample(())
    part = replace(part, chosen=(nothing, *part.chosen), rejected=(nothing, *part.rejected))
    trainer = make_trainer(qwen, lambda: moved(qwen), micro_batch_tokens=1)
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


# -------------------------------------------------------------------------------------- parts and micro-batches


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


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        # Replies of which 4, 1 and 2 tokens are fed after a prompt of 4, and of 6 after one of 7: by reply, by prompt.
        ({"micro_batch_tokens": 1}, [4 + 4, 4 + 1, 4 + 2, 7 + 6]),
        ({"micro_batch_tokens": 23, "chunk_tokens": 7}, [4 + 7, 7 + 6]),
    ],
)
def test_micro_batches_and_chunks_change_nothing(
    any_model: LanguageModel, settings: dict[str, Any], sizes: list[int]
) -> None:
    """Guards against means per micro-batch, and rows that see one another (GPT-2: absolute positions)."""
    part = mixed_part(any_model.module)
    all_at_once, split_up = make_trainer(any_model), make_trainer(any_model, **settings)
    with recorded_hidden(split_up.model) as seen:
        loss = apply(split_up, part)["loss"]
    assert [len(one.ids) for one in seen] == sizes
    assert apply(all_at_once, part)["loss"] == pytest.approx(loss, rel=1e-5)
    assert_same_gradient(gradient_of(split_up.model.module), gradient_of(all_at_once.model.module), ROUNDING)


def trained_places(one: Pass) -> list[int]:
    """Return the places in the flat sequence whose hidden state has a gradient."""
    assert one.gradient is not None
    places: list[int] = (one.gradient != 0).any(-1).nonzero()[:, 0].tolist()
    return places


def test_only_chosen_tokens_have_a_gradient(any_model: LanguageModel) -> None:
    """Guards against loss on prompt, draft or masked tokens: their gradient is exactly 0.

    Prompt 2 31 3 9 9 2 3 holds a draft 9 9 and is at places 0 to 6, prompt 2 31 3 at 7 to 9. The reply 10 11 12 13 to
    the first, of which 11 is masked, is predicted from places 6, 11 and 12 (places 10 to 12 are fed); the reply 7 8 1 to
    the second from 9, 13 and 14.
    """
    solve = make_sample((7, 8, 1))
    refine = make_sample((10, 11, 12, 13), prompt_ids=(2, 31, 3, 9, 9, 2, 3), mask=(True, False, True, True))
    trainer = make_trainer(any_model)
    with recorded_hidden(trainer.model) as seen:
        apply(trainer, PolicyGradient((solve, refine), (1.0, -1.0), WIDE))
    (one,) = seen
    assert one.ids == [2, 31, 3, 9, 9, 2, 3, 2, 31, 3, 10, 11, 12, 7, 8]
    assert trained_places(one) == [6, 9, 11, 12, 13, 14]


@pytest.mark.parametrize(("kl", "n_tokens"), [(0.0, [3 + 2]), (0.5, [3 + 1 + 2 + 4] * 2)])
def test_advantage_zero_costs_nothing_without_a_kl_term(qwen: LanguageModel, kl: float, n_tokens: list[int]) -> None:
    """Guards against forward passes for zero-std groups, and a KL term that skips them. One prompt of 3 tokens."""
    trainer = make_trainer(qwen, initial=lambda: qwen)
    part = PolicyGradient((reply_of(2), reply_of(3), reply_of(5)), (0.0, 1.0, 0.0), kl_coef=kl)
    with recorded_hidden(trainer.model) as own, recorded_hidden(qwen) as of_initial:
        apply(trainer, part)
    assert [len(one.ids) for one in own + of_initial] == n_tokens


def test_default_sizes_of_micro_batches(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a setting that is ignored, and micro-batches that overflow a CPU's cache with wide models."""
    trainer = make_trainer(qwen)
    for hidden_size, n in (
        (20, trainer_module.CPU_NUMBERS // 20),
        (100, trainer_module.CPU_NUMBERS // 100),
        (10**6, 512),
    ):
        monkeypatch.setattr(LanguageModel, "hidden_size", hidden_size)
        assert trainer._micro_batch_tokens == n
    assert make_trainer(qwen, micro_batch_tokens=7)._micro_batch_tokens == 7


# ------------------------------------------------------------------------------------------ versions and failures


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
    assert (len(alarms(metrics)), alarms(lagged)) == (2, [])
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
    qwen: LanguageModel, break_trainer: Callable[[Trainer], None], weights: tuple[float, ...]
) -> None:
    """Guards against checking loss or gradient only, and NaN that spreads to weights and optimizer state."""
    trainer = make_trainer(qwen, micro_batch_tokens=1)
    break_trainer(trainer)
    before = bits(trainer)
    with pytest.raises(FloatingPointError, match="the loss is"):
        apply(trainer, Imitate((reply_of(2),) * len(weights), weights))
    assert same(bits(trainer), before)
    assert not trainer.optimizer.state
    assert (trainer.version, trainer.n_optimizer_steps) == (0, 0)


# ------------------------------------------------------------------------------------------------- old log-probs


def test_recomputed_log_probs_by_hand(qwen: LanguageModel) -> None:
    """Guards against a ratio to noisy log-probs that is clipped, and importance ratios that are inverted or not truncated.

    Recomputed / sampler = exp(-noise) = 0.740818, 1.221403 and exp(1) = 2.718, truncated to 2. A sample of 2 tokens
    with A = 1 and one of 5 with A = -0.5: -(1.962221 - 0.5 * (2 * 1.962221 + 2)) / 7 = 0.142857 = 1/7.
    """
    trainer = make_trainer(qwen, old_log_probs="recomputed", tis_cap=2.0)
    samples = noisy(at_ratio_one(trainer, (reply_of(2), reply_of(5))), (0.3, -0.2, -1.0))
    metrics = apply(trainer, PolicyGradient(samples, (1.0, -0.5)))
    assert (metrics["ratio"], metrics["clip_low_frac"], metrics["clip_high_frac"]) == (1.0, 0.0, 0.0)
    assert metrics["loss"] == pytest.approx(1 / 7, rel=1e-5)
    # The mismatch is measured before any correction: gaps of 0.3, 0.2; 0.3, 0.2, 1.0, 0.3, 0.2.
    assert metrics["mismatch/log_prob_gap"] == pytest.approx(2.5 / 7, rel=1e-5)


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


def test_importance_ratio_of_forced_tokens_is_one(qwen: LanguageModel) -> None:
    """Guards against NaN from the importance ratio of tokens that no sampler drew."""
    trainer = make_trainer(qwen, old_log_probs="recomputed")
    (sample,) = noisy(at_ratio_one(trainer, (reply_of(3),)), (-0.5,))
    sample = replace(sample, forced=(False, True, True), log_probs=(sample.log_probs[0], math.nan, math.nan))
    metrics = apply(trainer, PolicyGradient((sample,), (1.0,), AdvantageAwareShaping("none")))
    # Recomputed / sampler = exp(0.5) on the chosen token.
    assert metrics["loss"] == pytest.approx(-(math.exp(0.5) + 2) / 3, rel=1e-5)
    assert metrics["ratio"] == 1.0


def test_sampler_and_trainer_agree_at_mixed_temperatures(any_model: LanguageModel) -> None:
    """Guards against scoring that ignores the temperature, and against caches that shift it."""
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


# ----------------------------------------------------------------------------------------------- optimizer steps


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
        ({"schedule": "linear"}, [0.6, 0.48, 0.36, 0.24, 0.12, 0.0, 0.0]),  # 0.6 (1 - k / 5), and 0 from there on
        # 0.3 (1 + cos(k pi / 5)): cosines of 36 and 72 degrees are 0.809017 and 0.309017.
        ({"schedule": "cosine"}, [0.6, 0.5427051, 0.3927051, 0.2072949, 0.0572949, 0.0, 0.0]),
        # 0.6 x (1/4, 2/4, 3/4, 1, 1, 1, 1) x (1, 0.8, 0.6, 0.4, 0.2, 0, 0)
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
