"""Attention over packed rows that share prefixes, against plain loops and separate sequences."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.models.forward import PackedAttention, PackedRow, Span, Variant
from rethink.models.forward.attention import PLAIN
from rethink.policies.local.prefill import _Recorded
from support.forward import (
    assert_gradients_close,
    build,
    draw,
    gradients_through,
    one_row,
    parameter_gradients,
    reference_hidden,
    some_ids,
    weights_class,
)


class Layout:
    """Prompts, each once, then replies to them, as one packed sequence."""

    def __init__(self, prompts: Sequence[int], replies: Sequence[tuple[int, int]]) -> None:
        self.n = sum(prompts) + sum(n for _, n in replies)
        self.positions_T = torch.cat([*map(torch.arange, prompts), *(prompts[p] + torch.arange(n) for p, n in replies)])
        lengths = [*prompts, *(n for _, n in replies)]
        spans = [Span(end - n, n) for end, n in zip(accumulate(lengths), lengths, strict=True)]
        self.prompts = [PackedRow((s,), s.length) for s in spans[: len(prompts)]]
        own = spans[len(prompts) :]
        self.replies = [PackedRow((spans[p], s), s.length) for (p, _), s in zip(replies, own, strict=True)]
        self.rows = [*self.prompts, *self.replies]
        self.packed = PackedAttention([self.prompts, self.replies])


def places_of(row: PackedRow) -> Tensor:
    return torch.cat([torch.arange(s.start, s.start + s.length) for s in row.spans])


NAMES = ["llama", "qwen3", "mistral, window", "qwen3, one window", "gpt2", "phi3, window"]
LAYOUT = Layout([5, 1, 13], [(0, 7), (0, 2), (2, 11), (1, 3), (0, 1)])


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_share_a_prompt_equal_separate_sequences(name: str) -> None:
    """Guards against attention across rows, wrong positions, and a prompt with the gradient of one reply only."""
    module = build(name)
    ids_T = some_ids(LAYOUT.n)
    theirs = copy.deepcopy(module)
    weights = weights_class(name)(module, torch.float32, trainable=True)
    hidden_T_H = weights.hidden(ids_T, LAYOUT.positions_T, LAYOUT.packed)
    total, expected = torch.zeros(()), torch.zeros(())
    for row in LAYOUT.rows:
        places = places_of(row)
        alone_T_H = reference_hidden(theirs, ids_T[places])
        torch.testing.assert_close(hidden_T_H[places], alone_T_H, rtol=0, atol=1e-4)
        asked = places[-row.n_queries :]
        target = draw(len(asked), 24, seed=int(places[-1]))
        total = total + (hidden_T_H[asked] * target).sum()
        expected = expected + (alone_T_H[-row.n_queries :] * target).sum()
    expected.backward()
    assert_gradients_close(gradients_through(module, weights, total), parameter_gradients(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_cached_keys_count_like_computed_ones(name: str) -> None:
    """Guards against spans that ignore the cache, and a window that forgets it. One prompt has no cached tokens."""
    module = build(name)
    weights = weights_class(name)(module, torch.float32)
    ids_T, others_T = some_ids(17), some_ids(6, seed=19)
    wholes = [torch.cat([ids_T[:5], others_T]), others_T, ids_T]
    with torch.no_grad():
        recorded = _Recorded(one_row(16))
        weights.hidden(ids_T[:16], torch.arange(16), recorded)
        rows = [
            PackedRow((Span(0, 5), Span(16, 6)), 6),
            PackedRow((Span(22, 6),), 6),
            PackedRow((Span(0, 5), Span(5, 11), Span(28, 1)), 1),
        ]
        new = torch.cat([others_T, others_T, ids_T[16:]])
        positions_T = torch.cat([torch.arange(5, 11), torch.arange(6), torch.tensor([16])])
        attend = PackedAttention([rows], past=lambda layer: recorded.layers[layer], n_past=16)
        ours = weights.hidden(new, positions_T, attend).split([6, 6, 1])
        for ours_T_H, whole in zip(ours, wholes, strict=True):
            theirs_T_H = reference_hidden(module, whole)[-len(ours_T_H) :]
            torch.testing.assert_close(ours_T_H, theirs_T_H, rtol=0, atol=1e-4)


SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)

VARIANTS = [PLAIN, Variant(softcap=0.8), Variant(sinks=SINKS), Variant(chunked=True), Variant(1.3, SINKS, True)]


def slow_attention(
    row: PackedRow, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, variant: Variant = PLAIN
) -> Tensor:
    """Return attention [n_queries, A, D], query by query and head by head."""
    places = places_of(row).tolist()
    out = []
    for t in range(len(places) - row.n_queries, len(places)):
        first = 0 if window is None else max(0, t + 1 - window)
        if window is not None and variant.chunked:
            first = t - t % window
        seen = places[first : t + 1]
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // k.shape[1])
            scores = k[seen, group] @ q[places[t], head] * scale
            if variant.softcap is not None:
                scores = variant.softcap * (scores / variant.softcap).tanh()
            total = scores.exp().sum() + (0.0 if variant.sinks is None else variant.sinks[head].exp())
            out.append(scores.exp() / total @ v[seen, group])
    return torch.stack(out).view(row.n_queries, q.shape[1], -1)


@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    replies=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=6),
    window=st.sampled_from([None, 1, 2, 5, 100]),
    n_keys=st.sampled_from([1, 2, 4]),
    variant=st.sampled_from(VARIANTS),
)
@example(prompts=[9, 1], replies=[(0, 5), (1, 9)], window=1, n_keys=2, variant=Variant(softcap=0.8))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_attention_equals_a_loop(
    prompts: list[int], replies: list[tuple[int, int]], window: int | None, n_keys: int, variant: Variant
) -> None:
    """Guards against padding of another row, heads in the wrong order, outputs in another order, a soft cap after the
    mask, the sink of another head, and a window for a chunk. In the example, padding is past the window, and gradients were
    NaN."""
    layout = Layout(prompts, [(p % len(prompts), n) for p, n in replies])
    q = draw(layout.n, 4, 6, seed=1).double().requires_grad_()
    k, v = (draw(layout.n, n_keys, 6, seed=seed).double().requires_grad_() for seed in (2, 3))
    out = layout.packed(0, q, k, v, scale=0.7, window=window, variant=variant)
    slow = torch.cat([slow_attention(row, q, k, v, 0.7, window, variant) for row in layout.rows])
    torch.testing.assert_close(out, slow, rtol=0, atol=1e-12)
    slope = draw(*out.shape, seed=4).double()
    ours, theirs = (torch.autograd.grad(o, (q, k, v), slope) for o in (out, slow))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
