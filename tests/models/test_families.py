"""Every family that we claim to support: our log-probs, gradients and replies against those of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy
from rethink.policies.token_policy import Request
from rethink.training.losses.forward import trained_log_probs
from rethink.training.micro_batch import TrainingSample, lay_out
from rethink.types import Sample, Sampling
from support.model_families import FAMILIES, V, build_family
from support.samples import make_sample, sdpa_attention

PROMPTS = tuple(tuple((7 * k + 3 * i) % (V - 2) + 2 for k in range(n)) for i, n in enumerate((11, 37)))
"""Prompts longer than every window: one that each row reads alone, and one that its rows share in the KV cache."""

N_NEW = 13
ROOT = Path(__file__).parents[2]
PATHS = {"fused", "modules", "plain"}


@cache
def family(name: str) -> LanguageModel:
    return build_family(name)


def samples() -> list[Sample]:
    """Return two replies of different lengths to each prompt."""
    found = []
    for i, prompt in enumerate(PROMPTS):
        for n in (5, 12):
            ids = [(11 * k + i + n) % (V - 2) + 2 for k in range(n)]
            found.append(make_sample(ids, group=str(i), prompt_ids=prompt, temperature=0.7))
    return found


def own_log_probs(model: LanguageModel, sample: Sample) -> Tensor:
    """Return the log-probs [T] from one forward pass of the whole module over one row."""
    ids_1_T = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    with sdpa_attention(model.module):
        found = model.module(input_ids=ids_1_T, attention_mask=torch.ones_like(ids_1_T), use_cache=False).logits
    log_probs_T_V = (found[0, len(sample.prompt_ids) - 1 : -1].float() / 0.7).log_softmax(-1)
    return log_probs_T_V.gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]


def generated(model: LanguageModel, prompt: Sequence[int]) -> list[int]:
    """Return the reply that transformers generates greedily."""
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": N_NEW, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
    with sdpa_attention(model.module):
        out = model.module.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return list(out[0, len(prompt) :].tolist())


def shortfall(model: LanguageModel, prompt: Sequence[int], reply: Sequence[int]) -> float:
    """Return how much smaller the logit of an id of the reply is, at most, than that of the likeliest id in its place, from
    one forward pass of the whole module."""
    ids = torch.tensor([[*prompt, *reply]])
    with sdpa_attention(model.module):
        logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    logits_T_V = logits[0, len(prompt) - 1 : -1]
    chosen_T = logits_T_V.gather(-1, torch.tensor(reply)[:, None])[:, 0]
    return float((logits_T_V.max(-1).values - chosen_T).max())


def test_the_docs_list_every_family() -> None:
    """Guards against a table in docs/models.md that names another path, or a family that no test compares."""
    found: dict[str, str] = {}
    for line in (ROOT / "docs" / "models.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in PATHS:
            found |= dict.fromkeys(cells[2].split(", "), cells[0])
    assert found == {name: family.path for name, family in FAMILIES.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_and_gradients_of_a_packed_pass(name: str) -> None:
    """Guards against a window, cap, sink or scale that is left out, positions that run on, rows that see others, and a
    family that silently moves to a slower path."""
    model, parts = family(name), samples()
    assert model.path_name == FAMILIES[name].path
    weights = model.weights(trainable=True)
    micro = lay_out([TrainingSample(sample) for sample in parts])
    ours = micro.by_sample(trained_log_probs(weights, 16, micro))
    factors = [torch.linspace(-1, 2, len(sample.ids)) for sample in parts]
    loss = sum(((own * f).sum() for own, f in zip(ours, factors, strict=True)), torch.zeros(()))
    model.module.zero_grad()
    weights.backward_to_parameters(torch.autograd.grad(loss, weights.leaves, allow_unused=True))
    found = {key: p.grad for key, p in model.module.named_parameters() if p.grad is not None}
    model.module.zero_grad()
    for sample, own, f in zip(parts, ours, factors, strict=True):
        theirs = own_log_probs(model, sample)
        torch.testing.assert_close(own, theirs, rtol=0, atol=2e-4)
        (theirs * f).sum().backward()
    largest = max(float(g.abs().max()) for g in found.values())
    for key, p in model.module.named_parameters():
        if p.grad is not None and float(p.grad.abs().max()) > 1e-4 * largest:
            gap = float((found[key] - p.grad).abs().max())
            assert gap <= 1e-3 * float(p.grad.abs().max()) + 1e-5 * largest, f"{key} is off by {gap}"
    model.module.zero_grad()


def test_longrope_ends_at_the_original_positions() -> None:
    """Guards against rows whose angles change while they are sampled: 128 positions, of which 64 are the original ones."""
    assert family("Phi-3 with LongRoPE").max_positions == 64
    assert family("Phi-3").max_positions == 128


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_replies_and_their_scores(name: str) -> None:
    """Guards against a cache that differs from the model's own, and log-probs that differ between sampler and scorer.

    `generate` takes a pass per token, so it answers the longest prompt alone; the ids of the other replies must be the
    likeliest of one pass. Nemotron-H's pass over one token differs from its pass over many by 3e-3, within
    transformers."""
    model = family(name)
    atol = 1e-2 if name == "Nemotron-H" else 2e-4
    policy = LocalPolicy(model, Sampling(temperature=0.0, max_tokens=N_NEW))
    requests = [Request(prompt, 2, seed=i) for i, prompt in enumerate(PROMPTS)]
    found = dict(policy.generate(requests, policy.sampling))
    sampled = Sampling(temperature=0.9, max_tokens=N_NEW)
    drawn = dict(policy.generate(requests, sampled))
    for i, prompt in enumerate(PROMPTS):
        greedy = found[i][0].ids
        assert greedy == found[i][1].ids
        if prompt == PROMPTS[-1]:
            assert greedy == generated(model, prompt)
        else:
            assert shortfall(model, prompt, greedy) < atol
            assert len(greedy) == N_NEW or greedy[-1] == 1
            assert 1 not in greedy[:-1]
        replies = [make_sample(g.ids, prompt_ids=prompt, temperature=0.9) for g in drawn[i]]
        for reply, scores in zip(drawn[i], policy.score(replies), strict=True):
            assert reply.log_probs == pytest.approx(scores, abs=atol)
