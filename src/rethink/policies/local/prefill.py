"""Prefill: compute the keys and values of prompts, or only the part that the prefix cache lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rethink.models.forward import PackedAttention, PackedRow, Span, Weights
from rethink.models.forward.attention import PLAIN, Variant
from rethink.models.forward.embedding import positions_of
from rethink.models.forward.weights import logits
from rethink.policies.local.prefix_cache import Ids, KeyValues, PrefixCache, shared_prefixes

MIN_SHARED_PREFIX = 32
"""A prefix that several prompts share gets a separate forward pass if at least this many of its tokens are not cached. A
pass over fewer takes about as long as it saves."""

Past = Callable[[int], tuple[Tensor, Tensor]]
"""Keys and values of earlier tokens, by layer."""


@dataclass(frozen=True)
class Prefilled:
    """Prompts with their keys and values [T, K, D], layer by layer, in one flat sequence.

    `key_P_S` has the indices of each prompt's tokens in it, padded on the right, and `hidden_P_H` the hidden states of the
    last tokens. Rotary positions of what comes next are `shift_P` from the number of tokens (None: all 0)."""

    layers: list[tuple[Tensor, Tensor]]
    key_P_S: Tensor
    lengths_P: Tensor
    hidden_P_H: Tensor
    shift_P: Tensor | None = None

    def columns(self, prompt: int, start: int, end: int) -> KeyValues:
        """Return a copy of the keys and values of a prompt's tokens [start, end)."""
        where = self.key_P_S[prompt, start:end]
        return [tensor[where] for layer in self.layers for tensor in layer]


class _Recorded:
    """Attention that records the keys and values of each layer."""

    def __init__(self, packed: PackedAttention) -> None:
        self.packed = packed
        self.layers: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
        variant: Variant = PLAIN,
    ) -> Tensor:
        assert layer == len(self.layers)
        past = self.packed.past
        old = past(layer) if past is not None else (k[:0], v[:0])
        self.layers.append((torch.cat([old[0], k]), torch.cat([old[1], v])))
        return self.packed(layer, q, k, v, scale=scale, window=window, variant=variant)


class Prefiller:
    """Computes prompts; with a prefix cache in `prefixes`, only the tokens that it lacks.

    `n_prefilled_tokens` counts the prompt tokens that were computed, `n_reused_tokens` the cached ones. A shared
    prefix is computed once. The last token of a prompt is always computed.
    """

    def __init__(self) -> None:
        self.prefixes: PrefixCache | None = None
        self.n_prefilled_tokens = 0
        self.n_reused_tokens = 0

    def count(self, others: Sequence[Prefiller]) -> None:
        """Add the counts of other prefillers."""
        for other in others:
            if other is not self:
                self.n_prefilled_tokens += other.n_prefilled_tokens
                self.n_reused_tokens += other.n_reused_tokens

    def n_missing(self, ids: Ids) -> int:
        """Return how many tokens of a prompt must be computed; at least the last one, whose logits are needed."""
        if self.prefixes is None:
            return len(ids)
        return len(ids) - min(self.prefixes.n_cached(ids), len(ids) - 1)

    def prefill(self, weights: Weights, ids_P: Sequence[Ids]) -> tuple[Prefilled, Tensor]:
        """Return the computed prompts and the logits [P, V] of their next tokens."""
        if self.prefixes is not None:
            self._compute_shared(weights, ids_P, self.prefixes)
        self.n_reused_tokens += sum(len(ids) - self.n_missing(ids) for ids in ids_P)
        prefilled = self._compute(weights, ids_P)
        logits_P_V = logits(prefilled.hidden_P_H, weights.head)
        if self.prefixes is not None:
            self._store(ids_P, prefilled, self.prefixes)
        return prefilled, logits_P_V

    def _compute_shared(self, weights: Weights, ids_P: Sequence[Ids], prefixes: PrefixCache) -> None:
        """Compute and store the prefixes that prompts share, after (recursively) the prefixes that these share."""
        shared_P = shared_prefixes(ids_P, prefixes, MIN_SHARED_PREFIX)
        if shared_P:
            self._compute_shared(weights, shared_P, prefixes)
            self._store(shared_P, self._compute(weights, shared_P), prefixes)

    def _compute(self, weights: Weights, ids_P: Sequence[Ids]) -> Prefilled:
        """Compute the prompts' missing tokens. In the flat sequence, all cached tokens come first."""
        device = weights.head.weight.device
        cached: list[KeyValues] = []  # pieces of all prompts, in order
        n_cached_P: list[int] = []
        lengths_P = [len(ids) for ids in ids_P]
        for ids in ids_P:
            n_cached_P.append(len(ids) - self.n_missing(ids))
            if self.prefixes is not None:
                cached += self.prefixes.find(ids[: n_cached_P[-1]])
        n_past = sum(n_cached_P)
        rows: list[PackedRow] = []
        new_ids: list[int] = []
        positions: list[int] = []
        shifts: list[int] = []
        ends: list[int] = []  # index of each prompt's last token in `new_ids`
        cached_start = 0
        for ids, n_cached in zip(ids_P, n_cached_P, strict=True):
            n_new = len(ids) - n_cached
            spans = Span(cached_start, n_cached), Span(n_past + len(new_ids), n_new)
            rows.append(PackedRow(spans, n_new))
            new_ids += ids[n_cached:]
            placed, after = positions_of(ids, weights.image_vectors)
            positions += placed[n_cached:]
            shifts.append(after - len(ids))
            ends.append(len(new_ids) - 1)
            cached_start += n_cached
        self.n_prefilled_tokens += len(new_ids)
        attend = _Recorded(PackedAttention([rows], device, _past(cached), n_past))
        hidden_T_H = weights.hidden(
            torch.tensor(new_ids, device=device), torch.tensor(positions, device=device), attend
        )
        key_P_S = attend.packed.blocks[0].key_N_S
        shift_P = torch.tensor(shifts, device=device) if any(shifts) else None
        return Prefilled(attend.layers, key_P_S, torch.tensor(lengths_P, device=device), hidden_T_H[ends], shift_P)

    def _store(self, ids_P: Sequence[Ids], prefilled: Prefilled, prefixes: PrefixCache) -> None:
        for p, ids in enumerate(ids_P):
            prefixes.store(ids, partial(prefilled.columns, p))


def _past(cached: Sequence[KeyValues]) -> Past | None:
    """Return a function from a layer to its cached keys and values, concatenated; None without any."""
    if not cached:
        return None

    def past(layer: int) -> tuple[Tensor, Tensor]:
        keys = [piece[2 * layer] for piece in cached]
        values = [piece[2 * layer + 1] for piece in cached]
        return torch.cat(keys), torch.cat(values)

    return past
