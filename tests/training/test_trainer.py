"""The trainer: log-probs, losses and gradients against brute force."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.objectives import AdvantageAwareShaping, Clip, Imitate, PolicyGradient, Prefer, Surrogate
from support.samples import (
    apply,
    assert_same_gradient,
    copied,
    exact,
    factors,
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
    Mean,
    at_ratio_one,
    bits,
    expected_gradient,
    moved,
    noisy,
    on_one_thread,
    same,
    some_pairs,
)

_one_thread = pytest.fixture(scope="module", autouse=True)(on_one_thread)


def test_log_probs_equal_those_of_a_plain_forward_pass(any_model: LanguageModel) -> None:
    """Guards against shifted targets, padding and positions that leak between rows, and a lost order of samples."""
    module, samples = exact(any_model), mixed_samples()
    got = make_trainer(any_model, micro_batch_tokens=29).log_probs(samples)
    for sample, log_probs in zip(samples, got, strict=True):
        assert log_probs.dtype == torch.float32
        expected = reference_log_probs(module, sample).detach() if sample.n_trained else torch.empty(0).double()
        # Log-probs down to -20 nats from float32 logits of the same size.
        torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mean", ["token", "sequence", "constant"])
def test_policy_gradient_equals_brute_force(any_model: LanguageModel, mean: Mean) -> None:
    """Guards against everything at once: tokens, masks, temperatures, clips, weights and denominators."""
    module = exact(any_model)
    part = mixed_part(module, loss_aggregation=mean, constant_length=13, coefficient=3.0)
    trainer = make_trainer(any_model)
    loss = reference_policy_gradient(module, part)
    # Terms of order 1 cancel to 0.001 in the mean over sequences, hence an absolute tolerance.
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def spliced(module: Any, **changes: Any) -> PolicyGradient:
    """The mixed part with the last tokens of three samples forced; nobody knows their log-probs."""
    part = mixed_part(module, **changes)
    samples = []
    for sample, n_forced in zip(part.samples, (2, 3, 0, 0, 0, 1), strict=True):
        kept = len(sample.ids) - n_forced
        log_probs = (*sample.log_probs[:kept], *(math.nan,) * n_forced)
        samples.append(replace(sample, forced=(False,) * kept + (True,) * n_forced, log_probs=log_probs))
    return replace(part, samples=tuple(samples))


CLIP = Clip(0.2, 0.28, 3.0)
STRONG = AdvantageAwareShaping(strength=0.3, cap=3.0, guard=0.05, clip=Clip(0.2, 0.28, 3.0))


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 1}])
@pytest.mark.parametrize("gamma", ["aware", "released", "constant", "none"])
def test_shaping_of_forced_tokens_equals_brute_force(
    qwen: LanguageModel, gamma: Literal["aware", "released", "constant", "none"], settings: dict[str, Any]
) -> None:
    """Guards against forced tokens at the wrong place, without or with a denominator of their own, and NaN from log-probs
    that nobody knows. Values of shaped tokens have no meaning, their gradients do."""
    module = exact(qwen)
    part = spliced(module, surrogate=replace(STRONG, gamma=gamma), kl_coef=0.7)
    trainer = make_trainer(qwen, lambda: moved(qwen), **settings)
    numbers = apply(trainer, part)
    loss = reference_policy_gradient(module, part, exact(moved(qwen)))
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    assert math.isfinite(numbers["loss"])
    # Offsets of 0.5 nats are left on chosen tokens; those of 1.5 (place 4) stood where tokens are forced now.
    assert numbers["mismatch/log_prob_gap_max"] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 1}])
@pytest.mark.parametrize("mean", ["token", "sequence"])
@pytest.mark.parametrize("gamma", [None, "none", "aware"])
def test_sequence_ratios_equal_brute_force(
    qwen: LanguageModel, gamma: Literal["none", "aware"] | None, mean: Mean, settings: dict[str, Any]
) -> None:
    """Guards against ratios over another sample's tokens, masked ones or forced ones, and against a gradient that is not
    GSPO's: the mean of a reply's log-ratios, differentiated as a whole."""
    module = exact(qwen)
    clip = Clip(0.2, 0.28, 3.0, "sequence")
    part = mixed_part(module, surrogate=clip, loss_aggregation=mean)
    if gamma is not None:
        part = spliced(module, surrogate=replace(STRONG, gamma=gamma, clip=clip), loss_aggregation=mean)
    trainer = make_trainer(qwen, **settings)
    apply(trainer, part)
    loss = reference_policy_gradient(module, part)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    other = make_trainer(qwen)
    apply(other, replace(part, surrogate=CLIP if gamma is None else replace(STRONG, gamma=gamma, clip=CLIP)))
    assert not same(list(gradient_of(other.model.module).values()), list(gradient_of(trainer.model.module).values()))


def per_token(part: PolicyGradient, values: Callable[[float, int], float]) -> PolicyGradient:
    """The part with an advantage per token, from that of its sample and the token's place."""
    advantages = []
    for sample, advantage in zip(part.samples, factors(part), strict=True):
        advantages.append(tuple(values(advantage, t) for t in range(len(sample.ids))))
    return replace(part, advantages=tuple(advantages))


@pytest.mark.parametrize("mean", ["token", "sequence", "constant"])
def test_advantages_per_token_equal_brute_force(any_model: LanguageModel, mean: Mean) -> None:
    """Guards against advantages at another token's place: signs change within a sample, and masked tokens have some too."""
    module = exact(any_model)
    part = per_token(
        mixed_part(module, loss_aggregation=mean, constant_length=13), lambda a, t: a * (1 - t) if t else 0.0
    )
    trainer = make_trainer(any_model, micro_batch_tokens=29)
    loss = reference_policy_gradient(module, part)
    assert apply(trainer, part)["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


@pytest.mark.parametrize("surrogate", [CLIP, replace(CLIP, importance_sampling_level="sequence"), STRONG])
def test_equal_advantages_per_token_are_those_of_the_sample(qwen: LanguageModel, surrogate: Surrogate) -> None:
    """Guards against another denominator or another choice of samples: the same monitors and weights, bit for bit."""
    part = mixed_part(qwen.module, surrogate=surrogate)
    part = replace(part, advantages=(0.0, *part.advantages[1:]))
    one, two = make_trainer(qwen, micro_batch_tokens=29), make_trainer(qwen, micro_batch_tokens=29)
    assert apply(one, part, n_steps=2) == apply(two, per_token(part, lambda a, t: a), n_steps=2)
    assert same(bits(one), bits(two))


def test_one_denominator_over_chosen_and_forced_tokens(qwen: LanguageModel) -> None:
    """Guards against parts of their own: one chosen and one forced token are (l1 + l2) / 2.

    A = 1 at ratio 1: l1 = -1. The other is -c with gamma = -0.00025, c = p / (p - 0.00025), at most 2.
    """
    trainer = make_trainer(qwen)
    (sample,) = at_ratio_one(trainer, (reply_of(2),))
    p = math.exp(sample.log_probs[1])
    sample = replace(sample, forced=(False, True), log_probs=(sample.log_probs[0], math.nan))
    c = min(2.0, p / (p - 0.00025)) if p > 0.00025 else 1.0001
    found = apply(trainer, PolicyGradient((sample,), (1.0,), AdvantageAwareShaping()))["loss"]
    assert found == pytest.approx(-(1 + c) / 2, rel=1e-5)
    assert abs(found + 1 + c) > 0.5, "two denominators of 1"


def test_forced_tokens_keep_their_first_log_probs_over_all_optimizer_steps(qwen: LanguageModel) -> None:
    """Guards against recomputing at each step: with the clip on forced tokens their ratios move away from 1."""
    trainer = make_trainer(qwen, lr=0.01)
    samples = at_ratio_one(trainer, (reply_of(2, group="a"), reply_of(5, group="b")))
    hidden = tuple(replace(s, forced=(True,) * len(s.ids), log_probs=(math.nan,) * len(s.ids)) for s in samples)
    wide = AdvantageAwareShaping("none", clip=Clip(1.0, 1e9))
    numbers = apply(trainer, PolicyGradient(hidden, (1.0, 1.0), wide), n_steps=2)
    other = make_trainer(qwen, lr=0.01)
    known = apply(other, PolicyGradient(samples, (1.0, 1.0), wide), n_steps=2)
    assert numbers["ratio"] == pytest.approx(known["ratio"], rel=1e-6)
    assert abs(numbers["ratio"] - 1) > 1e-3
    assert same(bits(trainer), bits(other))


def test_correction_of_the_sampler_leaves_forced_tokens_alone(qwen: LanguageModel) -> None:
    """Guards against NaN from the importance ratio of tokens that no sampler drew: it is 1 there."""
    trainer = make_trainer(qwen, old_log_probs="recomputed")
    (sample,) = noisy(at_ratio_one(trainer, (reply_of(3),)), (-0.5,))
    sample = replace(sample, forced=(False, True, True), log_probs=(sample.log_probs[0], math.nan, math.nan))
    numbers = apply(trainer, PolicyGradient((sample,), (1.0,), AdvantageAwareShaping("none")))
    # Recomputed / sampler = exp(0.5) on the chosen token.
    assert numbers["loss"] == pytest.approx(-(math.exp(0.5) + 2) / 3, rel=1e-5)
    assert numbers["ratio"] == 1.0


def test_clip_fractions_of_an_update_by_hand(qwen: LanguageModel) -> None:
    """Guards against fractions over the wrong tokens.

    Chosen tokens: 5, 5, 2 and 3, of weights 1, -0.75, -0.5 and 0.25, 15 in all. By place (from 0, forced ones counted)
    the ratios are 1, .61, 1.65, .90, 4.48, 1, .61. Above 1.28 with A > 0: places 2 and 4 of the first sample, place 2 of
    the last. Below 0.8 with A < 0: place 6 of the second sample (place 1 was forced), place 1 of the third.
    """
    numbers = apply(make_trainer(qwen), mixed_part(exact(qwen)))
    assert numbers["clip_high_frac"] == pytest.approx(3 / 15)
    assert numbers["clip_low_frac"] == pytest.approx(2 / 15)


def test_kl_to_the_initial_model_equals_brute_force(any_model: LanguageModel) -> None:
    """Guards against a KL to the present weights (gradient 0), a reversed one, or one under another denominator."""
    module, initial = exact(any_model), exact(moved(any_model))
    part = mixed_part(module, kl_coef=0.7, loss_aggregation="sequence")
    loss = reference_policy_gradient(module, part, initial)
    trainer = make_trainer(any_model, initial=lambda: moved(any_model))
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def test_the_initial_model_stays_as_it_was(qwen: LanguageModel) -> None:
    """Guards against a start model that is the trained one: after a step the KL has grown from 0."""
    trainer = make_trainer(qwen, initial=lambda: copied(qwen), lr=0.01)
    part = mixed_part(qwen.module, kl_coef=0.5)
    assert apply(trainer, part)["kl_to_initial_nats"] == 0.0
    assert apply(trainer, part, on_policy=False)["kl_to_initial_nats"] > 1e-4
    assert same(
        [p.detach() for p in trainer.initial.module.parameters()], [p.detach() for p in qwen.module.parameters()]
    )
    assert not any(p.requires_grad for p in trainer.initial.module.parameters())


def test_imitation_equals_brute_force(any_model: LanguageModel) -> None:
    """Guards against the sum of weights as denominator, and against needing log-probs that nobody knows (NaN)."""
    module = exact(any_model)
    unknown = tuple(replace(s, log_probs=(math.nan,) * len(s.ids)) for s in mixed_samples())
    part = Imitate(unknown, (1.0, 0.5, 0.0, 1.0, 1.0, -0.25), coefficient=3.0)
    trainer = make_trainer(any_model, micro_batch_tokens=29)
    loss = reference_imitate(module, part)
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


@pytest.mark.parametrize("micro_batch_tokens", [1, 23, 10_000])
def test_preference_equals_brute_force(any_model: LanguageModel, micro_batch_tokens: int) -> None:
    """Guards against pairs torn apart by micro-batches (one, two or all three pairs each) or sorted by length."""
    module, initial = exact(any_model), exact(moved(any_model))
    trainer = make_trainer(any_model, lambda: moved(any_model), micro_batch_tokens=micro_batch_tokens)
    part = some_pairs()
    loss = reference_prefer(module, part, initial)
    numbers = apply(trainer, part)
    assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    # Statistics run over pairs, however many micro-batches these are in.
    now, start = [[reference_log_probs(m, s).sum().item() for s in part.samples] for m in (module, initial)]
    ratios = [a - b for a, b in zip(now, start, strict=True)]
    margins = [part.beta * (ratios[k] - ratios[k + 3]) for k in range(3)]
    assert numbers["preference/n_pairs"] == 3
    assert numbers["preference/margin"] == pytest.approx(sum(margins) / 3, rel=1e-4)
    assert numbers["preference/accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 3)
    assert numbers["preference/chosen_log_prob"] == pytest.approx(sum(now[:3]) / 3, rel=1e-5)
    assert numbers["preference/rejected_log_prob"] == pytest.approx(sum(now[3:]) / 3, rel=1e-5)


def test_preference_against_a_reply_without_tokens(qwen: LanguageModel) -> None:
    """A pair with an empty reply used to stop the run with a KeyError; length 0 is legal, its log-ratio is 0.

    A pair of which nothing is trained changes neither loss nor gradient, so the reference goes without it.
    """
    module, initial = exact(qwen), exact(moved(qwen))
    part = Prefer((reply_of(5), make_sample(())), (make_sample(()), reply_of(3)), beta=0.3)
    loss = reference_prefer(module, part, initial)
    nothing = make_sample(())
    part = replace(part, chosen=(nothing, *part.chosen), rejected=(nothing, *part.rejected))
    trainer = make_trainer(qwen, lambda: moved(qwen), micro_batch_tokens=1)
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
