"""The trainer: gradients against brute force, invariances, versions, and losses recorded once and for all."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from torch import Tensor

from conftest import save_random_model
from rethink.forward import Attend, Weights
from rethink.model import LanguageModel, load_model
from rethink.policies.local import LocalPolicy
from rethink.train.apply import Trainer
from rethink.types import Clip, Imitate, PolicyGradient, Prefer, Sample, Sampling, Shaped
from samples import (
    MIXED_WEIGHTS,
    Gradient,
    apply,
    assert_same_gradient,
    copied,
    exact,
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
    some_ids,
)

GOLDEN = Path(__file__).parent / "golden" / "losses.json"

FLOAT32 = 1e-4
"""Two layers in float32 against float64: weights of 0.3 and sharp softmaxes magnify 6e-8 a few hundred times."""

ROUNDING = 2e-5
"""The same float32 sums in another order."""

SAME = 1e-6
"""Log-probs of the same weights with and without a gradient: norms are computed by other operations."""

Mean = Literal["token", "sequence", "constant"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, and waiting for them on a busy machine takes longer than the rest."""
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One order of sums, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def moved(model: LanguageModel) -> LanguageModel:
    """A copy with all weights 5% larger: a start model that is not the present one."""
    other = copied(model)
    with torch.no_grad():
        for p in other.module.parameters():
            p.mul_(1.05)
    return other


def expected_gradient(module: Any, loss: Tensor) -> Gradient:
    """The gradient of a reference loss of a float64 module."""
    module.zero_grad()
    loss.backward()
    return gradient_of(module)


def bits(trainer: Trainer) -> list[Tensor]:
    """The weights as integers, so that NaN equals NaN."""
    return [p.detach().clone().view(torch.int32) for p in trainer.parameters]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether all tensors are equal, bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def at_ratio_one(trainer: Trainer, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """The samples with the trainer's own log-probs."""
    found = trainer.log_probs(samples)
    assert all(len(lp) == len(s.ids) for s, lp in zip(samples, found, strict=True))
    return tuple(replace(s, log_probs=tuple(lp.tolist())) for s, lp in zip(samples, found, strict=True))


@dataclass
class Pass:
    """A forward pass: its ids [F] and, once there is one, the gradient [F, H] of its final hidden states."""

    ids: list[int]
    gradient: Tensor | None = None

    def keep(self, gradient: Tensor) -> None:
        self.gradient = gradient


@contextmanager
def recorded_hidden(model: LanguageModel) -> Iterator[list[Pass]]:
    """Every forward pass under weights that are put together meanwhile."""
    seen: list[Pass] = []
    plain = model.weights

    def watched(*args: Any, **options: Any) -> Weights:
        weights = plain(*args, **options)
        hidden = weights.hidden

        def spy(ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
            out_T_H = hidden(ids_T, positions_T, attend)
            seen.append(Pass(ids_T.tolist()))
            if out_T_H.requires_grad:
                out_T_H.register_hook(seen[-1].keep)
            return out_T_H

        weights.hidden = spy  # type: ignore[method-assign]
        return weights

    model.weights = watched  # type: ignore[method-assign]
    yield seen
    model.weights = plain  # type: ignore[method-assign]


# Against brute force


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
    part = mixed_part(module, mean=mean, length=13, coefficient=3.0)
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


STRONG = Shaped(strength=0.3, cap=3.0, guard=0.05, clip=Clip(0.2, 0.28, 3.0))


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 1}])
@pytest.mark.parametrize("gamma", ["aware", "released", "constant", "none"])
def test_shaping_of_forced_tokens_equals_brute_force(
    qwen: LanguageModel, gamma: Literal["aware", "released", "constant", "none"], settings: dict[str, Any]
) -> None:
    """Guards against forced tokens at the wrong place, without or with a denominator of their own, and NaN from log-probs
    that nobody knows. Values of shaped tokens have no meaning, their gradients do."""
    module = exact(qwen)
    part = spliced(module, surrogate=replace(STRONG, gamma=gamma), kl=0.7)
    trainer = make_trainer(qwen, lambda: moved(qwen), **settings)
    numbers = apply(trainer, part)
    loss = reference_policy_gradient(module, part, exact(moved(qwen)))
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    assert math.isfinite(numbers["loss"])
    # Offsets of 0.5 nats are left on chosen tokens; those of 1.5 (place 4) stood where tokens are forced now.
    assert numbers["mismatch/log_prob_gap_max"] == pytest.approx(0.5, rel=1e-4)


def test_one_denominator_over_chosen_and_forced_tokens(qwen: LanguageModel) -> None:
    """Guards against parts of their own: one chosen and one forced token are (l1 + l2) / 2.

    A = 1 at ratio 1: l1 = -1. The other is -c with gamma = -0.00025, c = p / (p - 0.00025), at most 2.
    """
    trainer = make_trainer(qwen)
    (sample,) = at_ratio_one(trainer, (reply_of(2),))
    p = math.exp(sample.log_probs[1])
    sample = replace(sample, forced=(False, True), log_probs=(sample.log_probs[0], math.nan))
    c = min(2.0, p / (p - 0.00025)) if p > 0.00025 else 1.0001
    found = apply(trainer, PolicyGradient((sample,), (1.0,), Shaped()))["loss"]
    assert found == pytest.approx(-(1 + c) / 2, rel=1e-5)
    assert abs(found + 1 + c) > 0.5, "two denominators of 1"


def test_forced_tokens_keep_their_first_log_probs_over_all_optimiser_steps(qwen: LanguageModel) -> None:
    """Guards against recomputing at each step: with the clip on forced tokens their ratios move away from 1."""
    trainer = make_trainer(qwen, lr=0.01)
    samples = at_ratio_one(trainer, (reply_of(2, group="a"), reply_of(5, group="b")))
    hidden = tuple(replace(s, forced=(True,) * len(s.ids), log_probs=(math.nan,) * len(s.ids)) for s in samples)
    wide = Shaped("none", clip=Clip(1.0, 1e9))
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
    numbers = apply(trainer, PolicyGradient((sample,), (1.0,), Shaped("none")))
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
    part = mixed_part(module, kl=0.7, mean="sequence")
    loss = reference_policy_gradient(module, part, initial)
    trainer = make_trainer(any_model, initial=lambda: moved(any_model))
    assert apply(trainer, part)["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


def test_the_initial_model_stays_as_it_was(qwen: LanguageModel) -> None:
    """Guards against a start model that is the trained one: after a step the KL has grown from 0."""
    trainer = make_trainer(qwen, initial=lambda: copied(qwen), lr=0.01)
    part = mixed_part(qwen.module, kl=0.5)
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


def some_pairs(**changes: Any) -> Prefer:
    """Three pairs of other lengths; two of them share their chosen sample."""
    first = reply_of(5, group="a")
    second = reply_of(3, group="b", mask=(True, False, True), temperature=0.7)
    rejected = (reply_of(2, group="a"), reply_of(7, group="a"), reply_of(11, group="b", temperature=0.7))
    return Prefer((first, first, second), rejected, **{"beta": 0.3, "coefficient": 2.0, **changes})


@pytest.mark.parametrize("micro_batch_tokens", [1, 23, 10_000])
def test_preference_equals_brute_force(any_model: LanguageModel, micro_batch_tokens: int) -> None:
    """Guards against pairs torn apart by micro-batches (one, two or all three pairs each) or sorted by length."""
    module, initial = exact(any_model), exact(moved(any_model))
    trainer = make_trainer(any_model, lambda: moved(any_model), micro_batch_tokens=micro_batch_tokens)
    loss = reference_prefer(module, some_pairs(), initial)
    assert apply(trainer, some_pairs())["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)


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


# Denominators


def two_samples(trainer: Trainer) -> tuple[Sample, ...]:
    """2 and 6 tokens of one group, at ratio 1."""
    return at_ratio_one(trainer, (reply_of(2, group="a"), reply_of(6, group="a")))


@pytest.mark.parametrize(
    ("mean", "loss"),
    [
        ("token", 0.25),  # -(2 * 0.5 - 6 * 0.5) / 8
        ("sequence", 0.0),  # -(0.5 - 0.5) / 2
        ("constant", 0.2),  # -(2 * 0.5 - 6 * 0.5) / (2 * 5)
    ],
)
def test_means_by_hand(qwen: LanguageModel, mean: Mean, loss: float) -> None:
    """Guards against one mean taken for another."""
    trainer = make_trainer(qwen)
    part = PolicyGradient(two_samples(trainer), (0.5, -0.5), mean=mean, length=5)
    assert apply(trainer, part)["loss"] == pytest.approx(loss, abs=SAME)


def test_a_silent_group_dilutes_the_token_mean(qwen: LanguageModel) -> None:
    """Guards against silent groups that drop out: 8 more tokens of weight 0 halve 0.25 and the gradient."""
    trainer = make_trainer(qwen)
    samples = two_samples(trainer)
    alone = gradient(trainer, PolicyGradient(samples, (0.5, -0.5)))
    silent = PolicyGradient((*samples, reply_of(3, group="b"), reply_of(5, group="b")), (0.5, -0.5, 0.0, 0.0))
    other = make_trainer(qwen)
    assert apply(other, silent)["loss"] == pytest.approx(0.125, abs=SAME)
    assert_same_gradient(gradient_of(other.model.module), {n: g / 2 for n, g in alone.items()}, 1e-6)


@pytest.mark.parametrize("mean", ["token", "sequence", "constant"])
def test_samples_without_trained_tokens_change_nothing(qwen: LanguageModel, mean: Mean) -> None:
    """Guards against empty and fully forced rows that count as zeros (pitfall 7); bit for bit."""
    samples = (reply_of(2), reply_of(5))
    padded = (make_sample(()), samples[0], make_sample((8, 9), mask=(False, False)), samples[1])
    one, two = make_trainer(qwen), make_trainer(qwen)
    numbers = apply(one, PolicyGradient(samples, (1.0, -0.5), mean=mean))
    assert apply(two, PolicyGradient(padded, (3.0, 1.0, 2.0, -0.5), mean=mean)) == numbers
    assert same(list(gradient_of(one.model.module).values()), list(gradient_of(two.model.module).values()))


def test_parts_do_not_dilute_one_another(qwen: LanguageModel) -> None:
    """Guards against a denominator that parts share (pitfall 9): the joint gradient is the sum of the separate ones."""
    parts = (mixed_part(qwen.module), Imitate((reply_of(7), reply_of(3)), (1.0, 0.5)), some_pairs())
    joint = gradient(make_trainer(qwen, lambda: moved(qwen)), *parts)
    separate = [gradient(make_trainer(qwen, lambda: moved(qwen)), part) for part in parts]
    assert_same_gradient(joint, {name: sum(g[name] for g in separate) for name in joint}, ROUNDING)  # type: ignore[misc]


def test_an_empty_part_changes_nothing(qwen: LanguageModel) -> None:
    """Guards against a division by zero, or a part that counts without having samples; bit for bit."""
    part = mixed_part(qwen.module)
    one, two = make_trainer(qwen), make_trainer(qwen)
    empty = (PolicyGradient((), ()), Imitate((), ()), Prefer((), ()))
    assert apply(one, part) == apply(two, *empty[:2], part, empty[2])
    assert same(bits(one), bits(two))


def test_an_update_of_silent_groups_is_legal(qwen: LanguageModel) -> None:
    """Guards against 0/0, and against weight decay on an update without any gradient (pitfall 22)."""
    trainer = make_trainer(qwen, weight_decay=0.5, lr=0.1)
    before = bits(trainer)
    numbers = apply(trainer, PolicyGradient((reply_of(2), reply_of(3, group="b")), (0.0, 0.0)), n_steps=2)
    assert numbers == {"loss": 0.0, "lr": 0.1}
    assert same(bits(trainer), before)
    assert (trainer.version, trainer.n_optimiser_steps) == (1, 0)


# Invariances


@pytest.mark.parametrize("settings", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 23}, {"chunk_tokens": 7}])
def test_micro_batches_and_chunks_do_not_matter(any_model: LanguageModel, settings: dict[str, Any]) -> None:
    """Guards against means per micro-batch (pitfall 8), and rows that see one another (GPT-2: absolute positions)."""
    part = mixed_part(any_model.module)
    all_at_once, split_up = make_trainer(any_model), make_trainer(any_model, **settings)
    with recorded_hidden(split_up.model) as seen:
        loss = apply(split_up, part)["loss"]
    # Replies of which 4, 1 and 2 tokens are fed behind a prompt of 4, and of 6 behind one of 7: one by one; by prompt; all.
    expected = {1: [4 + 4, 4 + 1, 4 + 2, 7 + 6], 23: [4 + 7, 7 + 6], 7: [4 + 7 + 7 + 6]}[next(iter(settings.values()))]
    assert [len(one.ids) for one in seen] == expected
    assert apply(all_at_once, part)["loss"] == pytest.approx(loss, rel=1e-5)
    whole, pieces = gradient_of(all_at_once.model.module), gradient_of(split_up.model.module)
    assert_same_gradient(pieces, whole, ROUNDING)


def test_the_order_of_samples_does_not_matter(qwen: LanguageModel) -> None:
    """Guards against weights or log-probs that stay in place while rows are sorted by length."""
    part = mixed_part(qwen.module)
    back = replace(part, samples=part.samples[::-1], weights=part.weights[::-1])
    assert_same_gradient(gradient(make_trainer(qwen), back), gradient(make_trainer(qwen), part), ROUNDING)


def test_optimiser_steps_take_whole_groups(qwen: LanguageModel) -> None:
    """Guards against groups that are split by position: two steps over a b a b are one over a and one over b."""
    part = mixed_part(qwen.module)
    stepwise, separate = make_trainer(qwen, lr=0.01), make_trainer(qwen, lr=0.01)
    apply(stepwise, part, n_steps=2)
    for group in "ab":
        mine = [i for i, s in enumerate(part.samples) if s.problem.id == group]
        share = replace(
            part, samples=tuple(part.samples[i] for i in mine), weights=tuple(part.weights[i] for i in mine)
        )
        apply(separate, share, on_policy=False)
    assert same(bits(stepwise), bits(separate))
    assert (stepwise.version, stepwise.n_optimiser_steps) == (1, 2)


def three_groups(trainer: Trainer) -> PolicyGradient:
    """One sample each of three groups."""
    samples = at_ratio_one(trainer, tuple(reply_of(n, group=g) for n, g in ((2, "a"), (3, "b"), (5, "c"))))
    return PolicyGradient(samples, (1.0, -0.5, 0.25))


def test_more_steps_than_groups_are_legal(qwen: LanguageModel) -> None:
    """Guards against a crash, or a step of momentum and decay, on a share without samples; 3 groups in 4 steps."""
    trainer = make_trainer(qwen)
    apply(trainer, three_groups(trainer), n_steps=4)
    assert (trainer.version, trainer.n_optimiser_steps) == (1, 3)


def test_the_mismatch_is_measured_before_the_first_step_even_if_that_is_not_in_the_first_share(
    qwen: LanguageModel,
) -> None:
    """The mismatch used to be left out where the first share was empty, as it is with 3 groups in 4 steps."""
    trainer = make_trainer(qwen, lr=0.1)
    numbers = apply(trainer, three_groups(trainer), n_steps=4)
    # Measured on the first sample only: after a step of 0.1 the gap would be of the order of nats.
    assert numbers["mismatch/log_prob_gap_max"] < 1e-4


# Which tokens are trained


def trained_places(one: Pass) -> list[int]:
    """The places in the flat sequence whose hidden state has any gradient."""
    assert one.gradient is not None
    places: list[int] = (one.gradient != 0).any(-1).nonzero()[:, 0].tolist()
    return places


def test_only_chosen_tokens_have_a_gradient(any_model: LanguageModel) -> None:
    """Guards against loss on prompt, draft or forced tokens: their gradient is exactly 0.

    Prompt 2 31 3 9 9 2 3 holds a draft 9 9 and stands at places 0 to 6, prompt 2 31 3 at 7 to 9. The reply 10 11 12 13 to
    the first, of which 11 was forced, is predicted from places 6, 11 and 12 (places 10 to 12 are fed); the reply 7 8 1 to
    the second from 9, 13 and 14.
    """
    solve = make_sample((7, 8, 1))
    refine = make_sample((10, 11, 12, 13), prompt_ids=(2, 31, 3, 9, 9, 2, 3), mask=(True, False, True, True))
    trainer = make_trainer(any_model)
    with recorded_hidden(trainer.model) as seen:
        apply(trainer, PolicyGradient((solve, refine), (1.0, -1.0), Clip(1.0, 1e9)))
    (one,) = seen
    assert one.ids == [2, 31, 3, 9, 9, 2, 3, 2, 31, 3, 10, 11, 12, 7, 8]
    assert trained_places(one) == [6, 9, 11, 12, 13, 14]


def test_the_end_token_is_trained_where_it_is_also_the_padding(tmp_path: Path) -> None:
    """Guards against masks by "not pad" (pitfall 4): with pad == eos the end token still has its loss (6 and 8)."""
    model = load_model(str(save_random_model(tmp_path, "llama", pad_token_id=1)))
    assert model.config.pad_token_id == model.chat.tokenizer.eos_token_id == 1
    trainer = make_trainer(model)
    part = PolicyGradient((make_sample((7, 8, 1)), make_sample((9, 10, 11, 12, 1))), (1.0, -1.0), Clip(1.0, 1e9))
    with recorded_hidden(trainer.model) as seen:
        apply(trainer, part)
    (one,) = seen
    assert one.ids == [2, 31, 3, 9, 10, 11, 12, 7, 8]
    assert trained_places(one) == [2, 3, 4, 5, 6, 7, 8]
    module = exact(model)
    expected = expected_gradient(module, reference_policy_gradient(module, part))
    assert_same_gradient(gradient_of(trainer.model.module), expected, FLOAT32)


@pytest.mark.parametrize(("kl", "n_tokens"), [(0.0, [3 + 2]), (0.5, [3 + 1 + 2 + 4] * 2)])
def test_weight_zero_costs_nothing_unless_a_kl_term_acts_on_it(
    qwen: LanguageModel, kl: float, n_tokens: list[int]
) -> None:
    """Guards against forward passes for silent groups, and against a KL term that forgets them. One prompt of 3 tokens."""
    trainer = make_trainer(qwen, initial=lambda: qwen)
    part = PolicyGradient((reply_of(2), reply_of(3), reply_of(5)), (0.0, 1.0, 0.0), kl=kl)
    with recorded_hidden(trainer.model) as own, recorded_hidden(qwen) as of_initial:
        apply(trainer, part)
    assert [len(one.ids) for one in own + of_initial] == n_tokens


# Versions and failures


def test_stale_samples_are_refused(qwen: LanguageModel) -> None:
    """Guards against refinements drawn before the solve update being trained as on-policy (pitfall 25)."""
    trainer = make_trainer(qwen)
    part = PolicyGradient((reply_of(2), reply_of(3, version=1)), (1.0, 1.0))
    before = bits(trainer)
    with pytest.raises(ValueError, match=r"version \[1\] for a policy of version 0"):
        apply(trainer, part)
    pair = Prefer((reply_of(2),), (reply_of(3, version=1),))
    with pytest.raises(ValueError, match=r"version \[1\] for a policy of version 0"):
        apply(trainer, pair)
    assert same(bits(trainer), before)
    assert (trainer.version, trainer.n_optimiser_steps) == (0, 0)
    apply(trainer, part, on_policy=False)
    assert (trainer.version, trainer.n_optimiser_steps) == (1, 1)
    with pytest.raises(ValueError, match=r"version \[0\] for a policy of version 1"):
        apply(trainer, part)


def assert_refused(trainer: Trainer, *weights: float) -> None:
    """An update of one group with these weights raises and leaves weights, optimiser and counters alone."""
    before = bits(trainer)
    with pytest.raises(FloatingPointError, match="the loss is"):
        apply(trainer, Imitate((reply_of(2),) * len(weights), weights))
    assert same(bits(trainer), before)
    assert not trainer.optimiser.state
    assert (trainer.version, trainer.n_optimiser_steps) == (0, 0)


def test_nan_weights_stop_the_update(qwen: LanguageModel) -> None:
    """Guards against a NaN that spreads to all weights and the optimiser's state."""
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


def noisy(samples: tuple[Sample, ...], noise: tuple[float, ...]) -> tuple[Sample, ...]:
    """The samples with noise added to their log-probs, in turn."""
    return tuple(
        replace(s, log_probs=tuple(lp + noise[t % len(noise)] for t, lp in enumerate(s.log_probs))) for s in samples
    )


def test_recomputed_log_probs_give_ratio_one_and_truncated_weights(qwen: LanguageModel) -> None:
    """Guards against a ratio to noisy log-probs that is clipped, and against factors that are turned over or uncut.

    Recomputed / sampler = exp(-noise) = 0.740818, 1.221403 and exp(1) = 2.718, truncated to 2. A sample of 2 tokens
    with A = 1 and one of 5 with A = -0.5: -(1.962221 - 0.5 * (2 * 1.962221 + 2)) / 7 = 0.142857 = 1/7.
    """
    trainer = make_trainer(qwen, old_log_probs="recomputed", truncate=2.0)
    samples = noisy(at_ratio_one(trainer, (reply_of(2), reply_of(5))), (0.3, -0.2, -1.0))
    numbers = apply(trainer, PolicyGradient(samples, (1.0, -0.5)))
    assert numbers["ratio"] == 1.0
    assert (numbers["clip_low_frac"], numbers["clip_high_frac"]) == (0.0, 0.0)
    assert numbers["loss"] == pytest.approx(1 / 7, rel=1e-5)
    # The mismatch is measured to the sampler, before any correction: gaps of 0.3, 0.2; 0.3, 0.2, 1.0, 0.3, 0.2.
    assert numbers["mismatch/log_prob_gap"] == pytest.approx(2.5 / 7, rel=1e-5)


def test_recomputed_log_probs_keep_to_the_weights_before_the_first_step(qwen: LanguageModel) -> None:
    """Guards against recomputing at each optimiser step, which would make every ratio 1."""
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
    """Guards against dropout while scoring or training (pitfall 16): two runs are equal bit for bit, and to none."""
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


# The optimiser


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [0.6] * 7),
        ({"schedule": "linear"}, [0.6, 0.48, 0.36, 0.24, 0.12, 0.0, 0.0]),  # 0.6 (1 - k / 5), and 0 from there on
        # 0.3 (1 + cos(k pi / 5)): cosines of 36 and 72 degrees are 0.809017 and 0.309017.
        ({"schedule": "cosine"}, [0.6, 0.5427051, 0.3927051, 0.2072949, 0.0572949, 0.0, 0.0]),
        ({"n_warmup_updates": 3}, [0.15, 0.3, 0.45, 0.6, 0.6, 0.6, 0.6]),  # 0.6 (k + 1) / 4
        # The product: 0.6 x (1/4, 2/4, 3/4, 1, 1, 1, 1) x (1, 0.8, 0.6, 0.4, 0.2, 0, 0)
        ({"schedule": "linear", "n_warmup_updates": 3}, [0.15, 0.24, 0.27, 0.24, 0.12, 0.0, 0.0]),
    ],
)
def test_learning_rates_by_hand(qwen: LanguageModel, settings: dict[str, Any], rates: list[float]) -> None:
    """Guards against a schedule that starts at 0, ends early, turns negative, or counts optimiser steps."""
    trainer = make_trainer(qwen, lr=0.6, n_updates=5, **settings)
    found = []
    for _ in rates:
        found.append(apply(trainer, PolicyGradient((), ()), n_steps=3)["lr"])
        assert trainer.optimiser.param_groups[0]["lr"] == found[-1]
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


# Golden losses


def environment() -> dict[str, str]:
    """What has to be the same for float32 sums to be the same bit for bit."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def golden_run(model: LanguageModel) -> list[dict[str, float]]:
    """Loss and gradient norm of three updates with five optimiser steps, from samples that nobody drew.

    The start model is not the present one: the KL's gradient would else be a rounding error, which Adam makes a full step.
    """
    trainer = make_trainer(model, lambda: moved(model), max_grad_norm=1.0, weight_decay=0.01, micro_batch_tokens=61)
    part = replace(mixed_part(model.module), kl=0.05)
    replies = (reply_of(5, group="a"), make_sample(some_ids(3, "golden"), group="b", stop="length"))
    numbers = [
        apply(trainer, part, n_steps=2),
        apply(trainer, Imitate(replies, (1.0, 0.5)), on_policy=False, n_steps=2),
        apply(trainer, some_pairs(), part, on_policy=False),
    ]
    return [{name: n[name] for name in ("loss", "grad_norm")} for n in numbers]


def golden_losses(folder: Path) -> list[dict[str, float]]:
    """The golden run on one thread, over a vocabulary that does not depend on the demo's."""
    with one_thread():
        return golden_run(load_model(str(save_random_model(folder, "qwen3", vocab_size=101))))


def test_golden_losses(tmp_path: Path) -> None:
    """Guards against refactors that change a number anywhere; `python tests/test_apply.py` records them anew.

    Another torch or another instruction set adds float32 numbers in another order: about 1e-6 in one gradient, which
    Adam's first steps (the sign of the gradient, where it is small) magnify into the next loss; hence 1e-3.
    """
    golden = json.loads(GOLDEN.read_text())
    found = golden_losses(tmp_path)
    if golden["environment"] == environment():
        assert found == golden["updates"]
    else:
        assert found == [pytest.approx(update, rel=1e-3) for update in golden["updates"]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recorded = golden_losses(Path(folder))
    GOLDEN.write_text(json.dumps({"environment": environment(), "updates": recorded}, indent=2) + "\n")
