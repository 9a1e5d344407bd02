"""Random policy gradients, and their losses by brute force: dense, in float64, one sample at a time.

Each sample goes through the forward pass of transformers, and autograd differentiates a formula per token. The formulas
are written from the docstrings of `objectives` and the papers named there; nothing of `training.losses` is used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rethink.objectives import CISPO, GMPO, SAPO, AdvantageAwareShaping, Clip, PolicyGradient, Surrogate
from rethink.seeds import rng
from rethink.types import Sample
from support.samples import END, make_sample

MODES = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
TEMPERATURES = (0.7, 1.0, 1.3)
NOISE_NATS = 0.6
"""The largest difference between the sampler's log-probs and the model's: ratios from 0.55 to 1.82."""


@dataclass(frozen=True)
class Case:
    """A policy gradient, in `n_steps` optimizer steps, under some settings of the trainer."""

    part: PolicyGradient
    n_steps: int
    settings: dict[str, Any]

    @property
    def recomputed(self) -> bool:
        return self.settings["old_log_probs"] == "recomputed"


def make_case(number: int, module: Any) -> Case:
    """Return a random case."""
    random_ = rng("brute force", number)
    low, high, dual = random_.uniform(0.1, 0.28), random_.uniform(0.1, 0.28), random_.choice((None, 1.5, 3.0))
    clip = Clip(low, high, dual, random_.choice(("token", "sequence")))
    surrogate = some_surrogate(number, random_, clip)
    samples: list[Sample] = []
    advantages: list[float | tuple[float, ...]] = []
    for group in "abcd"[: random_.randint(2, 4)]:
        is_silent = random_.random() < 0.3
        temperature = random_.choice(TEMPERATURES)
        prompt_ids = tuple(random_.choices(range(4, 40), k=random_.randint(1, 6)))
        for _ in range(random_.randint(2, 4)):
            samples.append(some_sample(random_, group, prompt_ids, temperature, module))
            advantages.append(0.0 if is_silent else some_advantage(random_, len(samples[-1].ids)))
    terms = rng("terms", number)
    shuffled = random_.sample(range(len(samples)), len(samples))
    part = PolicyGradient(
        tuple(samples[i] for i in shuffled),
        tuple(advantages[i] for i in shuffled),
        surrogate,
        loss_aggregation=random_.choice(("token", "sequence", "constant")),
        constant_length=random_.choice((1, 7, 100)),
        kl_coef=random_.choice((0.0, 0.0, 0.05, 0.3)),
        coefficient=random_.choice((1.0, 0.25, 3.0)),
        kl_estimator=terms.choice(("k1", "k2", "k3")),
        entropy_coef=terms.choice((0.0, 0.0, 0.01, 0.3)),
    )
    settings = {
        "old_log_probs": random_.choice(("sampler", "recomputed", "recomputed")),
        "importance_sampling_mode": random_.choice(MODES),
        "importance_sampling_clip_max": random_.choice((1.1, 2.0, math.inf)),
        "importance_sampling_clip_min": random_.choice((0.0, 0.0, 0.7)),
        "micro_batch_tokens": random_.choice((12, 40, 4096)),
        "lr": 0.02,  # the weights move between optimizer steps
        "weight_decay": 0.0,
        "max_grad_norm": math.inf,
        "autocast": "none",
    }
    return Case(part, random_.randint(1, 3), settings)


def some_surrogate(number: int, random_: random.Random, clip: Clip) -> Surrogate:
    """Return a surrogate: each third number has a plain clip, each third a shaped one, and the rest one of the others."""
    if number % 3 == 0:
        return clip
    if number % 3 == 1:
        return some_shaping(random_, clip)
    others = (
        GMPO(random_.uniform(0.05, 0.4), random_.uniform(0.05, 0.4)),
        CISPO(random_.choice((0.2, 1.0)), random_.choice((0.3, 4.0))),
        SAPO(random_.choice((0.7, 1.0, 3.0)), random_.choice((1.05, 5.0))),
    )
    return others[number // 3 % len(others)]


def some_shaping(random_: random.Random, clip: Clip) -> AdvantageAwareShaping:
    return AdvantageAwareShaping(
        random_.choice(("aware", "aware", "released", "constant", "none")),
        strength=random_.choice((0.001, 0.05)),
        cap=random_.choice((1.1, 2.0, math.inf)),
        guard=random_.choice((0.0, 0.01, 0.2)),
        guided_scope=random_.choice(("feedback", "trajectory")),
        clip=clip,
    )


def some_sample(
    random_: random.Random, group: str, prompt_ids: tuple[int, ...], temperature: float, module: Any
) -> Sample:
    """Return a reply of 0 to 9 tokens: some of them masked, or all, or forced at the end."""
    n = random_.choice((0, 1, 2, 3, 5, 7, 9))
    ids = [*random_.choices(range(4, 40), k=max(0, n - 1)), END][:n]
    n_forced = random_.choice((0, min(n, 3)))
    mask = []
    for t in range(n):
        mask.append(t >= n - n_forced or random_.random() < 0.8)
    if random_.random() < 0.1 and not n_forced:
        mask = [False] * n
    sample = make_sample(ids, group=group, prompt_ids=prompt_ids, temperature=temperature, mask=mask)
    sampled: list[float] = []
    for t, log_prob in enumerate(dense_log_probs(module, sample).tolist()):
        noise = random_.uniform(-NOISE_NATS, NOISE_NATS)
        sampled.append(math.nan if t >= n - n_forced else log_prob + noise)
    forced = (False,) * (n - n_forced) + (True,) * n_forced if n_forced else ()
    return replace(sample, log_probs=tuple(sampled), forced=forced)


def some_advantage(random_: random.Random, n_tokens: int) -> float | tuple[float, ...]:
    """Return an advantage of either sign, or 0, or one per token."""
    if random_.random() < 0.1:
        return 0.0
    if random_.random() < 0.15:
        return tuple(random_.uniform(-2, 2) for _ in range(n_tokens))
    return random_.choice((-1, 1)) * random_.uniform(0.1, 5.0)


def dense_log_probs(module: Any, sample: Sample) -> Tensor:
    """Return the log-probs of all tokens of a reply, trained or not."""
    if not sample.ids:
        return torch.zeros(0, dtype=torch.float64)
    ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    n = len(sample.prompt_ids)
    logits = module(input_ids=ids, use_cache=False).logits[0, n - 1 : -1]
    return (logits / sample.sampling.temperature).log_softmax(-1).gather(1, ids[0, n:, None])[:, 0]


def dense_entropies(module: Any, sample: Sample) -> Tensor:
    """Return the entropies of the distributions of all tokens of a reply, trained or not."""
    ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    n = len(sample.prompt_ids)
    logits = module(input_ids=ids, use_cache=False).logits[0, n - 1 : -1]
    return torch.distributions.Categorical(logits=logits / sample.sampling.temperature).entropy()


def first_log_probs(module: Any, part: PolicyGradient) -> list[list[float]]:
    """Return the log-probs of each sample under the weights before the first optimizer step."""
    with torch.no_grad():
        return [dense_log_probs(module, sample).tolist() for sample in part.samples]


def shares(part: PolicyGradient, n_steps: int) -> list[list[int]]:
    """Return the samples of each optimizer step: equal shares of whole groups, in the order of their first samples."""
    groups: list[str] = []
    for sample in part.samples:
        if sample.prompt.group not in groups:
            groups.append(sample.prompt.group)
    found: list[list[int]] = []
    for k in range(n_steps):
        names = groups[len(groups) * k // n_steps : len(groups) * (k + 1) // n_steps]
        members: list[int] = []
        for name in names:
            members += [i for i, sample in enumerate(part.samples) if sample.prompt.group == name]
        found.append(members)
    return found


def has_gradient(part: PolicyGradient, members: Sequence[int]) -> bool:
    """Return whether an optimizer step over these samples changes anything."""
    for i in members:
        is_trained = any(part.samples[i].mask)
        if is_trained and (part.kl_coef > 0 or part.entropy_coef > 0 or any(per_token(part, i))):
            return True
    return False


def per_token(part: PolicyGradient, i: int) -> list[float]:
    """Return the advantage of each token of sample i."""
    advantage = part.advantages[i]
    return list(advantage) if isinstance(advantage, tuple) else [advantage] * len(part.samples[i].ids)


def brute_loss(
    module: Any, initial: Any, case: Case, first: Sequence[Sequence[float]], members: Sequence[int]
) -> Tensor:
    """Return the loss of one optimizer step over some samples. `first` are their log-probs before the first step."""
    part = case.part
    n_tokens = sum(sum(part.samples[i].mask) for i in members)
    n_samples = sum(any(part.samples[i].mask) for i in members)
    loss = torch.zeros((), dtype=torch.float64)
    for i in members:
        sample = part.samples[i]
        if not any(sample.mask):
            continue
        if part.loss_aggregation == "token":
            denominator = n_tokens
        elif part.loss_aggregation == "sequence":
            denominator = n_samples * sum(sample.mask)
        else:
            denominator = n_samples * part.constant_length
        log_probs = dense_log_probs(module, sample)
        reference = dense_log_probs(initial, sample).detach()
        total = policy_loss(case, i, log_probs, first[i], reference)
        trained = torch.tensor(sample.mask)
        d = (reference - log_probs)[trained]
        if part.kl_estimator == "k3":
            total = total + part.kl_coef * (d.exp() - d - 1).sum()
        elif part.kl_estimator == "k2":
            total = total + part.kl_coef * (d**2 / 2).sum()
        if part.entropy_coef:
            total = total - part.entropy_coef * dense_entropies(module, sample)[trained].sum()
        loss = loss + part.coefficient * total / denominator
    return loss


def policy_loss(case: Case, i: int, log_probs: Tensor, first: Sequence[float], reference: Tensor) -> Tensor:
    """Return the sum over the trained tokens of sample i, without denominator, KL term and entropy bonus."""
    part, sample = case.part, case.part.samples[i]
    how = part.surrogate
    forced = sample.forced or (False,) * len(sample.ids)
    # Log-probs that ratios are relative to, and those that weights are divided by; forced tokens have no sampler.
    old, sampler = list(first), list(first)
    for t in range(len(sample.ids)):
        if not forced[t]:
            sampler[t] = sample.log_probs[t]
            if not case.recomputed:
                old[t] = sample.log_probs[t]
    advantages = per_token(part, i)
    if part.kl_estimator == "k1":  # in the reward of each token
        advantages = [a - part.kl_coef * (old[t] - reference[t].item()) for t, a in enumerate(advantages)]
    shaped: list[int] = []
    clipped: list[int] = []
    for t, is_trained in enumerate(sample.mask):
        if is_trained:
            found = shaped if is_shaped(how, forced, t, log_probs[t].item(), advantages[t]) else clipped
            found.append(t)
    gaps = {t: old[t] - sampler[t] for t in clipped}
    log_ratios = {t: log_probs[t] - old[t] for t in clipped}
    losses = token_losses(how, log_ratios, {t: log_probs[t] for t in clipped}, advantages)
    total = torch.zeros((), dtype=torch.float64)
    for t in clipped:
        total = total + importance(gaps[t], sum(gaps.values()), case) * losses[t]
    for t in shaped:
        assert isinstance(how, AdvantageAwareShaping)
        total = total + shaped_loss(log_probs[t], advantages[t], how)
    return total


def token_losses(
    how: Surrogate, log_ratios: dict[int, Tensor], log_probs: dict[int, Tensor], advantages: Sequence[float]
) -> dict[int, Tensor]:
    """Return the losses of a reply's tokens that are not shaped, by place, without importance weights."""
    if isinstance(how, GMPO):
        return gmpo_losses(how, log_ratios, advantages)
    found: dict[int, Tensor] = {}
    mean = sum(ratio.item() for ratio in log_ratios.values()) / max(1, len(log_ratios))
    for t, log_ratio in log_ratios.items():
        ratio = log_ratio.exp()
        if isinstance(how, CISPO):
            found[t] = -advantages[t] * min(max(ratio.item(), 1 - how.low), 1 + how.high) * log_probs[t]
        elif isinstance(how, SAPO):
            tau = how.tau_pos if advantages[t] > 0 else how.tau_neg
            found[t] = -advantages[t] * 4 / (tau * (1 + (-tau * (ratio - 1)).exp()))
        else:
            clip = how.clip if isinstance(how, AdvantageAwareShaping) else how
            assert isinstance(clip, Clip)
            if clip.importance_sampling_level == "sequence":
                ratio = math.exp(mean) * (log_probs[t] - log_probs[t].item()).exp()  # GSPO-token, eq. 14
            found[t] = clipped_loss(ratio, advantages[t], clip)
    return found


def gmpo_losses(how: GMPO, log_ratios: dict[int, Tensor], advantages: Sequence[float]) -> dict[int, Tensor]:
    """Return GMPO's losses: a product of clipped ratios to the power 1 / n."""
    product = torch.ones((), dtype=torch.float64)
    for t, log_ratio in log_ratios.items():
        ratio = log_ratio.exp()
        if advantages[t] > 0:
            product = product * ratio.clamp(max=math.exp(how.high))
        elif advantages[t] < 0:
            product = product * ratio.clamp(min=math.exp(-how.low))
        else:
            product = product * ratio
    mean = product ** (1 / max(1, len(log_ratios)))
    return {t: -advantages[t] * mean for t in log_ratios}


def importance(of_token: float, of_reply: float, case: Case) -> float:
    """Return the importance weight of a token from log-ratios: 1 with the sampler's log-probs, or if it is switched off."""
    mode = case.settings["importance_sampling_mode"]
    low, high = case.settings["importance_sampling_clip_min"], case.settings["importance_sampling_clip_max"]
    if mode == "none" or not case.recomputed:
        return 1.0
    weight = math.exp(of_reply if mode.startswith("sequence") else of_token)
    if mode.endswith("mask"):
        return weight if low <= weight <= high else 0.0
    return min(max(weight, low), high)


def clipped_loss(ratio: Tensor, advantage: float, clip: Clip) -> Tensor:
    """Return PPO's loss of a token: the ratio counts up to 1 + high if A > 0; from 1 - low to the dual clip if A < 0."""
    if advantage > 0:
        return -advantage * ratio.clamp(max=1 + clip.high)
    return -advantage * ratio.clamp(min=1 - clip.low, max=math.inf if clip.dual_clip is None else clip.dual_clip)


def is_shaped(how: Surrogate, forced: Sequence[bool], t: int, log_prob: float, advantage: float) -> bool:
    """Return whether token t is shaped: it is guided, and above the guard if A < 0."""
    if not isinstance(how, AdvantageAwareShaping) or how.gamma == "none":
        return False
    is_guided = any(forced) if how.guided_scope == "trajectory" else forced[t]
    return is_guided and (advantage >= 0 or math.exp(log_prob) >= how.guard)


def shaped_loss(log_prob: Tensor, advantage: float, how: AdvantageAwareShaping) -> Tensor:
    """Return -A p / (p + gamma), with the denominator held constant (but for "constant") and the quotient at most `cap`."""
    p = log_prob.exp()
    if how.gamma == "constant":
        return -advantage * p / (p + how.strength)
    if how.gamma == "released":
        gamma = -how.strength
    else:  # linear from +strength at A = -4 to -strength at A = 4
        gamma = -how.strength + 2 * how.strength * (4 - advantage) / 8
        gamma = min(max(gamma, -how.strength), how.strength)
    denominator = p.item() + gamma
    if denominator < 0:
        denominator = p.item() / 1.0001
    elif denominator > 1:
        denominator = p.item() / 0.9999
    c = min(p.item() / denominator, how.cap)
    return -advantage * c * p / p.item()
