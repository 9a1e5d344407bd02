"""Hand-made samples, and a slow reference implementation of the losses to compare the trainer with.

The reference has no padding, packing, chunks or micro-batches: one sample at a time goes through the forward pass of
transformers, in float64, and each token's loss is written out as in the papers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from rethink.models.forward.modules import own_attention
from rethink.models.language_model import LanguageModel
from rethink.objectives import (
    Advantage,
    AdvantageAwareShaping,
    Clip,
    Imitate,
    Part,
    PolicyGradient,
    Prefer,
    Surrogate,
    Update,
)
from rethink.seeds import rng
from rethink.settings import Training
from rethink.training.trainer import Trainer
from rethink.types import Message, Problem, Prompt, Sample, Sampling, StopReason, Verdict

END = 1
Gradient = dict[str, Tensor]

OFFSETS = (0.0, 0.5, -0.5, 0.1, -1.5)
"""Sampler minus trainer log-probs: ratios of 1, 0.61, 1.65, 0.90 and 4.48, on both sides of every bound of a clip."""


def make_prompt(group: str = "p", *, phase: str = "solve", seed: int = 2, draft: Sample | None = None) -> Prompt:
    """Return a prompt of the problem `group`. Samples of equal prompts form a group."""
    problem = Problem(group, "26 : 3 7 5", "21", verify=lambda reply, gold: Verdict(reply == gold))
    return Prompt(problem, phase, (Message("user", problem.question),), seed, draft)


def make_sample(
    ids: Sequence[int],
    *,
    group: str = "p",
    prompt_ids: Sequence[int] = (2, 31, 3),
    mask: Sequence[bool] | None = None,
    log_probs: Sequence[float] | None = None,
    temperature: float = 1.0,
    version: int = 0,
    stop: StopReason = "stop",
    verdict: Verdict | None = None,
    draft: Sample | None = None,
    forced: Sequence[bool] = (),
) -> Sample:
    """Return a sample with these ids. By default every token is chosen and has a log-prob of -1 nat."""
    return Sample(
        prompt=make_prompt(group, draft=draft),
        index=0,
        prompt_ids=tuple(prompt_ids),
        ids=tuple(ids),
        mask=(True,) * len(ids) if mask is None else tuple(mask),
        log_probs=(-1.0,) * len(ids) if log_probs is None else tuple(log_probs),
        text="",
        stop=stop,
        sampling=Sampling(temperature),
        version=version,
        verdict=verdict,
        reward=None if verdict is None or verdict.right is None else float(verdict.right),
        forced=tuple(forced),
    )


def some_ids(n: int, *names: str | int) -> tuple[int, ...]:
    """Return n ids from 4 to 96 (no special tokens), which depend on the names alone."""
    return tuple(rng("ids", *names).choices(range(4, 97), k=n))


def reply_of(n: int, *, group: str = "p", **changes: Any) -> Sample:
    """Return a sample of n tokens, the last of which is the end token."""
    return make_sample((*some_ids(n - 1, group, n), END), group=group, **changes)


def mixed_samples() -> tuple[Sample, ...]:
    """Return two interleaved groups of different prompts and temperatures, with 5 + 2 + 0 + 3 and 5 + 0 chosen tokens.

    One reply has no chosen token, one has some; one is empty, and one was cut at max_tokens.
    """
    holes = (True, False, True, True, False, True, True)
    return (
        reply_of(5, group="a", prompt_ids=(2, 31, 32, 3)),
        reply_of(7, group="b", prompt_ids=(2, 40, 41, 42, 43, 44, 3), mask=holes, temperature=0.7),
        reply_of(2, group="a", prompt_ids=(2, 31, 32, 3)),
        make_sample((), group="b", prompt_ids=(2, 40, 41, 42, 43, 44, 3), temperature=0.7),
        make_sample(some_ids(3, "forced"), group="a", prompt_ids=(2, 31, 32, 3), mask=(False,) * 3),
        make_sample(some_ids(3, "cut"), group="a", prompt_ids=(2, 31, 32, 3), stop="length"),
    )


MIXED_WEIGHTS = (1.0, -0.75, -0.5, 2.0, 3.0, 0.25)


def mixed_part(module: Any, offsets: Sequence[float] = OFFSETS, **changes: Any) -> PolicyGradient:
    """Return the mixed samples with the module's log-probs plus the offsets in turn, as a policy gradient."""
    samples = tuple(as_sampled(module, s, offsets) for s in mixed_samples())
    return PolicyGradient(samples, MIXED_WEIGHTS, **{"surrogate": Clip(0.2, 0.28, 3.0), **changes})


def as_sampled(module: Any, sample: Sample, offsets: Sequence[float] = (0.0,)) -> Sample:
    """Return the sample with the module's log-probs plus the offsets in turn; tokens that are not chosen keep theirs."""
    if not sample.n_trained:
        return sample
    with torch.no_grad():
        new = iter(reference_log_probs(module, sample).tolist())
    shifted = [
        next(new) + offsets[t % len(offsets)] if chosen else log_prob
        for t, (chosen, log_prob) in enumerate(zip(sample.mask, sample.log_probs, strict=True))
    ]
    return replace(sample, log_probs=tuple(shifted))


def shared_part(module: Any) -> PolicyGradient:
    """Return the mixed samples and more replies to their two prompts, enough for three workers."""
    part = mixed_part(module)
    extra = [reply_of(n, group="c", prompt_ids=(2, 31, 32, 3)) for n in (4, 6, 3)]
    extra += [reply_of(n, group="d", prompt_ids=(2, 40, 41, 42, 43, 44, 3)) for n in (5, 2)]
    return replace(part, samples=(*part.samples, *extra), advantages=(*part.advantages, 1.0, -0.5, 0.75, -1.0, 0.5))


def copied(model: LanguageModel) -> LanguageModel:
    """Return a model with a copy of the weights."""
    return LanguageModel(copy.deepcopy(model.module), model.chat, model.fused)


def exact(model: LanguageModel) -> Any:
    """Return a copy of the model's module in float64."""
    return copy.deepcopy(model.module).double()


def no_initial() -> LanguageModel:
    """Fail: the start model is loaded although no part needs it."""
    raise AssertionError("the start model was loaded although no part needs it")


def make_trainer(
    model: LanguageModel, initial: Callable[[], LanguageModel] = no_initial, n_updates: int = 5, **settings: Any
) -> Trainer:
    """Return a trainer of a copy of the model, by default without gradient clipping and weight decay."""
    plain = {"lr": 1e-3, "weight_decay": 0.0, "max_grad_norm": math.inf}
    return Trainer(copied(model), Training(**{**plain, **settings}), n_updates, initial)


def apply(trainer: Trainer, *parts: Part, n_steps: int = 1, on_policy: bool = True) -> dict[str, float]:
    """Train on one update of these parts and return its metrics."""
    return trainer.apply(Update("test", parts, n_steps, on_policy))


def gradient(trainer: Trainer, *parts: Part) -> Gradient:
    """Return the gradient, by parameter, of one optimizer step over these parts."""
    apply(trainer, *parts)
    return gradient_of(trainer.model.module)


def gradient_of(module: Any) -> Gradient:
    """Return the gradients by parameter, zeros where there is none."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def assert_same_gradient(got: Gradient, want: Gradient, tolerance: float) -> None:
    """Entries agree up to `tolerance` times the largest entry of the parameter, or 1% of the largest of all."""
    assert got.keys() == want.keys()
    overall = max(float(w.abs().max()) for w in want.values())
    assert overall > 0
    for name, w in want.items():
        scale = max(float(w.abs().max()), 0.01 * overall)
        gap = float((got[name].double() - w.double()).abs().max())
        assert gap <= tolerance * scale, f"{name}: gap {gap}, largest entry {scale}"


@contextmanager
def sdpa_attention(module: Any) -> Iterator[None]:
    """Let the module use the attention of transformers."""
    config = module.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = own_attention(module)
    try:
        yield
    finally:
        config._attn_implementation = before


def reference_log_probs(module: Any, sample: Sample) -> Tensor:
    """Return the log-probs [T] of the chosen tokens: each token is predicted one position before its own."""
    ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    with sdpa_attention(module):
        table = (module(input_ids=ids, use_cache=False).logits[0] / sample.sampling.temperature).log_softmax(-1)
    start = len(sample.prompt_ids) - 1
    return torch.stack([table[start + t, i] for t, i in enumerate(sample.ids) if sample.mask[t]])


def factors(part: PolicyGradient | Imitate) -> tuple[float, ...]:
    """Return advantages or weights, of a part with one per sample."""
    found = part.advantages if isinstance(part, PolicyGradient) else part.weights
    assert not any(isinstance(x, tuple) for x in found)
    return cast(tuple[float, ...], found)


def reference_policy_gradient(module: Any, part: PolicyGradient, initial: Any = None) -> Tensor:
    """Return the part's loss, token by token. A sequence ratio is the plain geometric mean (GSPO, not GSPO-token)."""
    trained = [(s, a) for s, a in zip(part.samples, part.advantages, strict=True) if any(s.mask)]
    n_tokens = sum(sum(s.mask) for s, _ in trained)
    loss = torch.zeros((), dtype=torch.float64)
    for sample, advantage in trained:
        denominator = {
            "token": n_tokens,
            "sequence": len(trained) * sum(sample.mask),
            "constant": len(trained) * part.constant_length,
        }[part.loss_aggregation]
        loss = loss + _sample_loss(reference_log_probs(module, sample), sample, advantage, part.surrogate) / denominator
        if part.kl_coef:
            d = reference_log_probs(initial, sample).detach() - reference_log_probs(module, sample)
            loss = loss + part.kl_coef * (d.exp() - d - 1).sum() / denominator
    return loss * part.coefficient


def _sample_loss(log_probs: Tensor, sample: Sample, advantage: Advantage, how: Surrogate) -> Tensor:
    forced = sample.forced or (False,) * len(sample.ids)
    kept = [k for k, chosen in enumerate(sample.mask) if chosen]
    clip = how.clip if isinstance(how, AdvantageAwareShaping) else how
    assert isinstance(clip, Clip)
    loss = torch.zeros((), dtype=torch.float64)
    log_ratios, weights = [], []  # of the clipped tokens
    for log_prob, k in zip(log_probs, kept, strict=True):
        weight = advantage[k] if isinstance(advantage, tuple) else advantage
        if isinstance(how, AdvantageAwareShaping) and _is_shaped(log_prob, weight, forced[k], how):
            loss = loss + _shaped(log_prob, weight, how)
            continue
        # Forced tokens were not sampled: their ratio is relative to the current weights.
        log_ratios.append(log_prob - (log_prob.item() if forced[k] else sample.log_probs[k]))
        weights.append(weight)
    if clip.importance_sampling_level == "sequence" and log_ratios:
        log_ratios = [torch.stack(log_ratios).mean()] * len(log_ratios)
    for log_ratio, weight in zip(log_ratios, weights, strict=True):
        loss = loss + _clipped(log_ratio.exp(), weight, clip)
    return loss


def _is_shaped(log_prob: Tensor, weight: float, forced: bool, how: AdvantageAwareShaping) -> bool:
    return forced and how.gamma != "none" and not (weight < 0 and log_prob.exp().item() < how.guard)


def _shaped(log_prob: Tensor, weight: float, how: AdvantageAwareShaping) -> Tensor:
    p = log_prob.exp()
    if how.gamma == "constant":
        return -weight * p / (p + how.strength)
    gamma = -how.strength if how.gamma == "released" else -how.strength * min(max(weight / 4, -1.0), 1.0)
    below = p.item() + gamma
    below = p.item() / 1.0001 if below < 0 else p.item() / 0.9999 if below > 1 else below
    return -weight * min(how.cap, p.item() / below) * log_prob


def _clipped(ratio: Tensor, weight: float, clip: Clip) -> Tensor:
    value = ratio.item()
    inside = min(max(value, 1 - clip.low), 1 + clip.high)
    bounded = ratio if inside == value else torch.full_like(ratio, inside)
    loss = max(-weight * ratio, -weight * bounded)
    if weight < 0 and clip.dual_clip is not None:
        return min(loss, torch.full_like(ratio, -weight * clip.dual_clip))
    return loss


def reference_imitate(module: Any, part: Imitate) -> Tensor:
    """Return the weighted negative log-likelihood, divided by the number of chosen tokens."""
    trained = [(s, w) for s, w in zip(part.samples, part.weights, strict=True) if any(s.mask)]
    total = torch.stack([-w * reference_log_probs(module, s).sum() for s, w in trained]).sum()
    return part.coefficient * total / sum(sum(s.mask) for s, _ in trained)


def reference_prefer(module: Any, part: Prefer, initial: Any) -> Tensor:
    """Return DPO's loss, equation 7: log(1 + exp(-margin)) is -log sigmoid(margin)."""

    def log_ratio(sample: Sample) -> Tensor:
        if not any(sample.mask):
            return torch.zeros((), dtype=torch.float64)
        return (reference_log_probs(module, sample) - reference_log_probs(initial, sample).detach()).sum()

    margins = [part.beta * (log_ratio(c) - log_ratio(r)) for c, r in zip(part.chosen, part.rejected, strict=True)]
    return part.coefficient * torch.stack([(1 + (-m).exp()).log() for m in margins]).mean()
