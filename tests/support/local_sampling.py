"""Prompts, requests and checks for tests of the local sampler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.models.forward import AttentionFn, FusedWeights, ModuleWeights
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local.decode import Decoder
from rethink.policies.local.graphs import Graphs
from rethink.policies.local.kv_cache import CacheShape
from rethink.policies.local.prefill import Prefiller, _Recorded
from rethink.policies.local.prefix_cache import PrefixCache
from rethink.policies.token_policy import Generation, Request
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict
from support import random_models
from support.samples import sdpa_attention, some_ids

QUESTIONS = ["3 7 5 -> 26", "2 -> 11", "1 2 3 4 5 6 7 8 9 -> 45", "11 13 -> 24", "2 3 5 7 -> 17"]


GREEDY = Sampling(temperature=0.0, max_tokens=23)


def prompt(question: str, seed: int) -> Prompt:
    problem = Problem(f"p{seed}", question, "", lambda reply, gold: Verdict(None))
    return Prompt(problem, "solve", (Message("user", question),), seed)


PROMPTS = [prompt(question, seed) for seed, question in enumerate(QUESTIONS)]


def with_many_stop_ids(model: LanguageModel) -> LanguageModel:
    """Let a seventh of the vocabulary end a reply, so replies of a random model differ in length."""
    model.chat.stop_ids = frozenset(range(1, model.config.vocab_size, 7))
    return model


def reference_generate(model: LanguageModel, shown: Prompt, n_tokens: int) -> list[int]:
    """Return the ids that transformers generates greedily for this prompt."""
    ids = torch.tensor([model.chat.encode(shown.messages)])
    with sdpa_attention(model.module):
        out = model.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_tokens,
            do_sample=False,
            eos_token_id=sorted(model.chat.stop_ids),
            pad_token_id=0,
        )
    return list(out[0, ids.shape[1] :].tolist())


def reference_log_probs(model: LanguageModel, sample: Sample) -> Tensor:
    """Return the reply's log-probs [T] from one uncached forward pass of the whole module."""
    ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    with torch.no_grad(), sdpa_attention(model.module):
        logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    logits_T_V = logits[0, len(sample.prompt_ids) - 1 : -1].float()
    log_probs_T_V = (logits_T_V / sample.sampling.temperature).log_softmax(-1)
    return log_probs_T_V.gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]


@contextmanager
def record_forward_passes(model: LanguageModel) -> Iterator[list[tuple[int, int]]]:
    """Record (prompts, tokens) of each forward pass; 0 prompts = a decoding step."""
    seen: list[tuple[int, int]] = []
    form: Any = FusedWeights if model.fused else ModuleWeights
    hidden = form.hidden

    def record(weights: Any, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        rows = [len(block.key_N_S) for block in attend.packed.blocks] if isinstance(attend, _Recorded) else []
        seen.append((sum(rows), len(ids_T)))
        out: Tensor = hidden(weights, ids_T, positions_T, attend)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "hidden", record)
        yield seen


def assert_same(ours: Sequence[Sample], theirs: Sequence[Sample]) -> None:
    """Check for equal tokens, and log-probs within 1e-5: float32 sums run in another order in another batch."""
    assert [s.ids for s in ours] == [s.ids for s in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)
        assert (a.text, a.stop, a.index) == (b.text, b.stop, b.index)


def row_bytes(n_tokens: int) -> int:
    """Return the bytes of n tokens in the small Qwen3's KV cache: 2 tensors, 2 layers, 2 heads of 6 numbers of 4 bytes."""
    return 2 * 2 * 2 * 6 * 4 * n_tokens


def assert_same_groups(ours: Sequence[Group], theirs: Sequence[Group]) -> None:
    """Check groups with `assert_same`."""
    assert_same([s for group in ours for s in group], [s for group in theirs for s in group])


@contextmanager
def uninitialized_memory_is_nan() -> Iterator[None]:
    """Fill tensors from `torch.empty` with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CAP = 23
SAMPLED = Sampling(max_tokens=CAP)
SIZES = (3, 1, 5, 2, 5, 4, 1, 3, 2, 5, 1, 4)


def requests_of(lengths: Sequence[int], sizes: Sequence[int] = SIZES) -> list[Request]:
    """Return requests with prompts of these lengths, these numbers of replies, and different seeds."""
    return [Request(some_ids(n, "r", i), m, seed=i) for i, (n, m) in enumerate(zip(lengths, sizes, strict=True))]


SHORT = requests_of([7, 2, 13, 1, 29, 3, 11, 5, 2, 17, 31, 3])


LONG = requests_of([32, 41, 37, 2, 61, 33, 47, 5, 53, 32, 59, 43])


def decode_all(
    model: LanguageModel,
    requests: Sequence[Request],
    cache_tokens: int,
    sampling: Sampling = SAMPLED,
    prefixes: PrefixCache | None = None,
    graphs: Graphs | None = None,
) -> list[list[Generation]]:
    """Return the replies to each request; check that each request finishes exactly once."""
    finished: list[tuple[int, list[Generation]]] = []
    prefiller = Prefiller()
    prefiller.prefixes = prefixes
    decoder = Decoder(model.weights(), model.chat, requests, sampling, prefiller, cache_tokens, graphs)
    while not decoder.is_done:
        finished += decoder.step()
    assert Counter(i for i, _ in finished) == Counter(range(len(requests)))
    return [replies for _, replies in sorted(finished, key=lambda pair: pair[0])]


def tokens_for_groups(requests: Sequence[Request], n_groups: int, cap: int = CAP) -> int:
    """Return a cache size for this many groups of the largest size, and twice as many prompts."""
    longest, most = max(len(r.ids) for r in requests), max(r.n for r in requests)
    return CacheShape(n_groups * most, 2 * n_groups, longest, max(1, cap - 1)).n_tokens


WINDOWS: list[tuple[str, dict[str, Any]]] = [
    ("mistral", {"sliding_window": 5}),
    ("qwen3", {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}),
]
"""Architectures with a sliding window in all layers, and in one."""


def windowed_model(folder: Path, kind: str, changes: dict[str, Any]) -> LanguageModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_models.SHAPES, "mistral", {"num_key_value_heads": 2})
        return load_model(str(random_models.save_random_model(folder, kind, **changes, use_sliding_window=True)))
