"""The trainer: what is counted and trained, and what may not change it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Clip, Imitate, PolicyGradient, Prefer
from rethink.training.trainer import Trainer
from rethink.types import Sample
from support.random_models import save_random_model
from support.samples import (
    apply,
    assert_same_gradient,
    exact,
    gradient,
    gradient_of,
    make_sample,
    make_trainer,
    mixed_part,
    reference_policy_gradient,
    reply_of,
)
from support.trained import (
    FLOAT32,
    ROUNDING,
    SAME,
    Mean,
    Pass,
    at_ratio_one,
    bits,
    expected_gradient,
    moved,
    on_one_thread,
    recorded_hidden,
    same,
    some_pairs,
)

_one_thread = pytest.fixture(scope="module", autouse=True)(on_one_thread)


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
    part = PolicyGradient(two_samples(trainer), (0.5, -0.5), loss_aggregation=mean, constant_length=5)
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
    """Guards against empty and fully forced rows that count as zeros; bit for bit."""
    samples = (reply_of(2), reply_of(5))
    padded = (make_sample(()), samples[0], make_sample((8, 9), mask=(False, False)), samples[1])
    one, two = make_trainer(qwen), make_trainer(qwen)
    numbers = apply(one, PolicyGradient(samples, (1.0, -0.5), loss_aggregation=mean))
    assert apply(two, PolicyGradient(padded, (3.0, 1.0, 2.0, -0.5), loss_aggregation=mean)) == numbers
    assert same(list(gradient_of(one.model.module).values()), list(gradient_of(two.model.module).values()))


def test_parts_do_not_dilute_one_another(qwen: LanguageModel) -> None:
    """Guards against a denominator that parts share: the joint gradient is the sum of the separate ones."""
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
    """Guards against 0/0, and against weight decay on an update without any gradient."""
    trainer = make_trainer(qwen, weight_decay=0.5, lr=0.1)
    before = bits(trainer)
    numbers = apply(trainer, PolicyGradient((reply_of(2), reply_of(3, group="b")), (0.0, 0.0)), n_steps=2)
    assert numbers == {"loss": 0.0, "lr": 0.1}
    assert same(bits(trainer), before)
    assert (trainer.version, trainer.n_optimizer_steps) == (1, 0)


# Invariances


@pytest.mark.parametrize("settings", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 23}, {"chunk_tokens": 7}])
def test_micro_batches_and_chunks_do_not_matter(any_model: LanguageModel, settings: dict[str, Any]) -> None:
    """Guards against means per micro-batch, and rows that see one another (GPT-2: absolute positions)."""
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
    back = replace(part, samples=part.samples[::-1], advantages=part.advantages[::-1])
    assert_same_gradient(gradient(make_trainer(qwen), back), gradient(make_trainer(qwen), part), ROUNDING)


def test_optimizer_steps_take_whole_groups(qwen: LanguageModel) -> None:
    """Guards against groups that are split by position: two steps over a b a b are one over a and one over b."""
    part = mixed_part(qwen.module)
    stepwise, separate = make_trainer(qwen, lr=0.01), make_trainer(qwen, lr=0.01)
    apply(stepwise, part, n_steps=2)
    for group in "ab":
        mine = [i for i, s in enumerate(part.samples) if s.problem.id == group]
        share = replace(
            part, samples=tuple(part.samples[i] for i in mine), advantages=tuple(part.advantages[i] for i in mine)
        )
        apply(separate, share, on_policy=False)
    assert same(bits(stepwise), bits(separate))
    assert (stepwise.version, stepwise.n_optimizer_steps) == (1, 2)


def three_groups(trainer: Trainer) -> PolicyGradient:
    """One sample each of three groups."""
    samples = at_ratio_one(trainer, tuple(reply_of(n, group=g) for n, g in ((2, "a"), (3, "b"), (5, "c"))))
    return PolicyGradient(samples, (1.0, -0.5, 0.25))


def test_more_steps_than_groups_are_legal(qwen: LanguageModel) -> None:
    """Guards against a crash, or a step of momentum and decay, on a share without samples; 3 groups in 4 steps."""
    trainer = make_trainer(qwen)
    apply(trainer, three_groups(trainer), n_steps=4)
    assert (trainer.version, trainer.n_optimizer_steps) == (1, 3)


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
    """Guards against masks by "not pad": with pad == eos the end token still has its loss."""
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
    part = PolicyGradient((reply_of(2), reply_of(3), reply_of(5)), (0.0, 1.0, 0.0), kl_coef=kl)
    with recorded_hidden(trainer.model) as own, recorded_hidden(qwen) as of_initial:
        apply(trainer, part)
    assert [len(one.ids) for one in own + of_initial] == n_tokens
