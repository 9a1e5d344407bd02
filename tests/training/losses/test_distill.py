"""Distillation: the loss by hand, and the trainer's loss and gradient against dense float64 tables of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, Distill, Divergence, PolicyGradient
from rethink.training.losses import LossSettings
from rethink.training.losses.distill import Divergences, distill_loss, distilled_samples, pack_for_teacher
from rethink.training.micro_batch import lay_out
from rethink.types import Sample, Sampling
from support.random_models import SHAPES
from support.samples import (
    apply,
    as_sampled,
    assert_same_gradient,
    exact,
    gradient_of,
    make_prompt,
    make_sample,
    make_trainer,
    mixed_samples,
    reply_of,
    sdpa_attention,
    some_ids,
)
from support.trained import FLOAT32, bits, expected_gradient, moved, same


def hinted(sample: Sample, *hint: int) -> Sample:
    """Return the same ids after a longer prompt, as the policy's `reprompt` does."""
    nan = (math.nan,) * len(sample.ids)
    prompt_ids = (*sample.prompt_ids[:-1], *hint, sample.prompt_ids[-1])
    prompt = make_prompt(sample.problem.id, phase="hint", draft=sample)
    return replace(sample, prompt=prompt, prompt_ids=prompt_ids, log_probs=nan, forced=(True,) * len(sample.ids))


def mixed_distillation(module: Any, **changes: Any) -> Distill:
    """Return the mixed samples: masked, empty, cut, of two temperatures; each has a hint of another length."""
    samples = tuple(as_sampled(module, s, (0.0, 0.5, -0.5, -1.5)) for s in mixed_samples())
    shown = tuple(hinted(s, *some_ids(k % 4 + 1, "hint", k)) for k, s in enumerate(samples))
    return Distill(samples, shown, **changes)


def tables(module: Any, sample: Sample) -> Tensor:
    """Return the distributions [T, V] of the sample's trained tokens, in float64."""
    with sdpa_attention(module):
        logits = module(input_ids=torch.tensor([[*sample.prompt_ids, *sample.ids]]), use_cache=False).logits[0]
    start = len(sample.prompt_ids) - 1
    places = [start + t for t, is_trained in enumerate(sample.mask) if is_trained]
    return (logits[places] / sample.sampling.temperature).softmax(-1)


def dense_loss(module: Any, teacher: Any, part: Distill) -> Tensor:
    """Return the loss token by token; all vocabulary entries are compared."""
    how = part.divergence
    assert how.top_k == 0
    total, n_tokens = torch.zeros((), dtype=torch.float64), 0
    for sample, shown in zip(part.samples, part.teacher_samples, strict=True):
        trained = [t for t, is_trained in enumerate(sample.mask) if is_trained]
        if not trained:
            continue
        student_T_V, teacher_T_V = tables(module, sample), tables(teacher, replace(shown, mask=sample.mask)).detach()
        for s, q, t in zip(student_T_V, teacher_T_V, trained, strict=True):
            ratio = s[sample.ids[t]].item() / math.exp(sample.log_probs[t])
            weight = min(ratio, how.ratio_cap) if how.ratio_cap else 1.0
            m = (s + q) / 2
            value = {
                "forward": (q * (q / s).log()).sum(),
                "reverse": (s * (s / q).log()).sum(),
                "jensen_shannon": (s * (s / m).log()).sum() / 2 + (q * (q / m).log()).sum() / 2,
            }[how.kind]
            total, n_tokens = total + weight * value, n_tokens + 1
    return part.coefficient * total / n_tokens


def _cases() -> Iterator[Any]:
    """Yield every model, kind and teacher: fast are all of one model, and one of each other model."""
    for case in product(SHAPES, ("forward", "reverse", "jensen_shannon"), ("policy", "reference")):
        is_fast = case[0] == "qwen3" or case[1:] == ("forward", "reference")
        yield pytest.param(*case, marks=() if is_fast else pytest.mark.slow)


@pytest.mark.parametrize(("any_model", "kind", "teacher"), [*_cases()], indirect=["any_model"])
def test_loss_and_gradient_equal_dense_tables(any_model: LanguageModel, kind: Any, teacher: Any) -> None:
    """Guards against a teacher with a gradient, the wrong model or prompt, tokens out of order, and a wrong denominator."""
    module, start = exact(any_model), moved(any_model)
    how = Divergence(kind, top_k=0, ratio_cap=1.2)
    part = mixed_distillation(module, divergence=how, teacher=teacher, coefficient=0.5)
    loss = dense_loss(module, module if teacher == "policy" else exact(start), part)
    for micro_batch_tokens in (4096, 13):
        trainer = make_trainer(any_model, lambda: start, micro_batch_tokens=micro_batch_tokens, chunk_tokens=3)
        metrics = apply(trainer, part)
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
        module.zero_grad()
        loss = dense_loss(module, module if teacher == "policy" else exact(start), part)


def test_reverse_divergence_has_the_gradient_of_per_token_advantages(any_model: LanguageModel) -> None:
    """The sampled-token form is an estimate of the full one: summed over all tokens v that could be sampled, each with its
    probability, -A_v grad log p_v with A_v = log t_v - log s_v is the gradient of KL(s || t). Guards against a wrong sign
    in either form."""
    module = exact(any_model)
    prompt_ids, hint = (2, 31, 3), (40, 41)
    n_entries = tables(module, make_sample((5,), prompt_ids=prompt_ids)).shape[1]
    replies = [make_sample((v,), prompt_ids=prompt_ids, mask=(True,)) for v in range(n_entries)]
    s = tables(module, replies[0])[0].detach()
    t = tables(module, hinted(replies[0], *hint))[0].detach()
    sampled = tuple(replace(r, log_probs=(s[v].log().item(),)) for v, r in enumerate(replies))
    advantages = tuple((s[v] * (t[v] / s[v]).log()).item() * n_entries for v in range(n_entries))
    full = make_trainer(any_model)
    reply = sampled[7]
    apply(full, Distill((reply,), (hinted(reply, *hint),), Divergence("reverse", 0)))
    tokens = make_trainer(any_model)
    apply(tokens, PolicyGradient(sampled, advantages, Clip()))
    wanted = {name: g.double() for name, g in gradient_of(tokens.model.module).items()}
    assert_same_gradient(gradient_of(full.model.module), wanted, 10 * FLOAT32)


def test_loss_by_hand() -> None:
    """Guards against weights above the cap, a weight on forced tokens, and statistics of the weighted loss.

    Weights: min(e^0.5, 1.3) = 1.3, e^-1, and 1 for the forced token, whose log-prob is unknown."""
    sample = make_sample((7, 8, 9), log_probs=(-1.0, -1.0, math.nan), forced=(False, False, True))
    part = Distill((sample,), (hinted(sample, 5),), Divergence(ratio_cap=1.3))
    micro = lay_out(distilled_samples(replace(part, coefficient=6.0)))
    values = Divergences(torch.tensor([0.1, 0.2, 0.4], requires_grad=True), torch.tensor([-0.5, -2.0, -3.0]))
    output = distill_loss(micro, values, part, LossSettings(comparison="lag"))
    output.loss.backward()
    weights = (1.3, math.exp(-1), 1.0)
    assert output.loss.item() == pytest.approx(2 * (0.13 + 0.2 * weights[1] + 0.4), rel=1e-6)
    assert values.divergence_T.grad is not None
    assert values.divergence_T.grad.tolist() == pytest.approx([2 * w for w in weights])
    metrics = output.statistics.metrics()
    assert metrics["divergence_nats"] == pytest.approx(0.7 / 3)
    assert metrics["divergence_weight"] == pytest.approx(sum(weights) / 3)
    assert metrics["lag/log_prob_gap"] == pytest.approx((0.5 + 1.0) / 3)
    uncapped = replace(part, divergence=Divergence(ratio_cap=0.0))
    assert distill_loss(micro, values, uncapped, LossSettings()).loss.item() == pytest.approx(1.4)


def test_the_mask_is_the_samples_own(any_model: LanguageModel) -> None:
    """Guards against tokens that are read by the teacher at other places than by the student."""
    sample = reply_of(6, mask=(True, False, True, True, False, False))
    shown = hinted(replace(sample, mask=(True,) * 6), 50, 51)
    one, other = make_trainer(any_model), make_trainer(any_model)
    assert apply(one, Distill((sample,), (shown,))) == apply(other, Distill((sample,), (hinted(sample, 50, 51),)))
    assert same(bits(one), bits(other))


def test_micro_batches_fit_as_the_teacher_reads_them() -> None:
    """Guards against micro-batches that fit without hints only, and samples in another order than their hints."""
    samples = [reply_of(4, group=g, prompt_ids=(2, k, 3)) for k, g in enumerate("aaabbb", 30)]
    items = distilled_samples(Distill(tuple(samples), tuple(hinted(s, *range(40, 50)) for s in samples)))
    batches = pack_for_teacher(items, 34)
    found: list[Sample] = []
    for batch in batches:
        assert all(item.teacher_sample is not None and item.teacher_sample.ids == item.sample.ids for item in batch)
        assert sum(len(item.teacher_sample.prompt_ids) + item.n_fed for item in batch if item.teacher_sample) <= 34
        found += [item.sample for item in batch]
    assert found == samples
    assert len(batches) >= 3, "two fit with their hints, four without"


def test_nothing_to_distill_changes_nothing(any_model: LanguageModel) -> None:
    """Guards against a division by zero, and weight decay without a gradient."""
    empty = make_sample(())
    for part in (Distill((), ()), Distill((empty,), (hinted(empty, 5),))):
        trainer, still = make_trainer(any_model, weight_decay=0.1), make_trainer(any_model)
        assert apply(trainer, part)["loss"] == 0.0
        assert same(bits(trainer), bits(still))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": (8, 9, 1)}, "other ids than the one that the teacher reads"),
        ({"sampling": Sampling(0.0)}, "greedy"),
        ({"usage": (3, 3)}, "endpoint"),
    ],
)
def test_samples_that_cannot_be_distilled(changes: dict[str, Any], message: str) -> None:
    sample = make_sample((7, 8, 1))
    with pytest.raises(ValueError, match=message):
        Distill((replace(sample, **changes),), (hinted(sample, 5),)).check()
    with pytest.raises(ValueError, match="1 samples but 0 teacher_samples"):
        Distill((sample,), ()).check()
