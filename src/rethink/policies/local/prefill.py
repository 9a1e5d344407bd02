"""Prompts through the model: all of each, or what is new in it since earlier prompts and replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.forward import PackedAttention, PackedRow, Span, Weights
from rethink.models.forward.weights import logits
from rethink.policies.local.prefix_cache import Ids, KeyValues, PrefixCache, shared_prefixes

MIN_SHARED_PREFIX = 32
"""A beginning that prompts share gets a forward pass of its own if it has this many tokens that are not kept yet; a pass
over fewer takes about as long as it saves."""

Past = Callable[[int], tuple[Tensor, Tensor]]
"""Keys and values of earlier tokens, by layer."""


@dataclass(frozen=True)
class Prefilled:
    """Prompts with their keys and values [T, K, D], layer by layer, in one flat sequence; `key_P_S` says where in it the
    tokens of each prompt are, padded on the right."""

    layers: list[tuple[Tensor, Tensor]]
    key_P_S: Tensor
    lengths_P: Tensor
    hidden_P_H: Tensor

    def columns(self, prompt: int, start: int, end: int) -> KeyValues:
        """Return a copy of keys and values of a prompt's tokens from `start` to before `end`."""
        where = self.key_P_S[prompt, start:end]
        return [tensor[where] for layer in self.layers for tensor in layer]


class _Recorded:
    """Attention that remembers the keys and values of each layer."""

    def __init__(self, packed: PackedAttention) -> None:
        self.packed = packed
        self.layers: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None) -> Tensor:
        assert layer == len(self.layers)
        past = self.packed.past
        old = past(layer) if past is not None else (k[:0], v[:0])
        self.layers.append((torch.cat([old[0], k]), torch.cat([old[1], v])))
        return self.packed(layer, q, k, v, scale=scale, window=window)


class Prefiller:
    """Computes prompts; while it has `prefixes`, only what these lack.

    `n_prefilled_tokens` counts the prompt tokens that had to be computed (a beginning that several prompts share counts
    once, and a prompt that was taken from the store counts its last token), `n_reused_tokens` those of prompts whose keys
    and values were kept.
    """

    def __init__(self) -> None:
        self.prefixes: PrefixCache | None = None
        self.n_prefilled_tokens = 0
        self.n_reused_tokens = 0

    def count(self, others: Sequence[Prefiller]) -> None:
        """Add what others have counted."""
        for other in others:
            if other is not self:
                self.n_prefilled_tokens += other.n_prefilled_tokens
                self.n_reused_tokens += other.n_reused_tokens

    def n_missing(self, ids: Ids) -> int:
        """Return how many tokens of a prompt have to be computed. The last one always is: its logits are needed."""
        if self.prefixes is None:
            return len(ids)
        return len(ids) - min(self.prefixes.n_cached(ids), len(ids) - 1)

    def prefill(self, weights: Weights, ids_P: Sequence[Ids]) -> tuple[Prefilled, Tensor]:
        """Return the prompts, and the logits [P, V] behind them."""
        if self.prefixes is not None:
            self._compute_shared(weights, ids_P, self.prefixes)
        self.n_reused_tokens += sum(len(ids) - self.n_missing(ids) for ids in ids_P)
        prefilled = self._compute(weights, ids_P)
        logits_P_V = logits(prefilled.hidden_P_H, weights.head)
        if logits_P_V.isnan().any():
            raise UserError("the model's logits are not numbers: its weights hold NaN, or overflow in this precision")
        if self.prefixes is not None:
            self._store(ids_P, prefilled, self.prefixes)
        return prefilled, logits_P_V

    def _compute_shared(self, weights: Weights, ids_P: Sequence[Ids], prefixes: PrefixCache) -> None:
        """Compute once what several prompts begin with; and before that, what several of these beginnings begin with."""
        shared_P = shared_prefixes(ids_P, prefixes, MIN_SHARED_PREFIX)
        if shared_P:
            self._compute_shared(weights, shared_P, prefixes)
            self._store(shared_P, self._compute(weights, shared_P), prefixes)

    def _compute(self, weights: Weights, ids_P: Sequence[Ids]) -> Prefilled:
        """Run what is lacking of the prompts through the model. In the flat sequence all kept tokens come first."""
        device = weights.head[0].device
        kept: list[KeyValues] = []  # one prompt's pieces behind the other's
        n_cached_P: list[int] = []
        lengths_P = [len(ids) for ids in ids_P]
        for ids in ids_P:
            n_cached_P.append(len(ids) - self.n_missing(ids))
            if self.prefixes is not None:
                kept += self.prefixes.find(ids[: n_cached_P[-1]])
        n_past = sum(n_cached_P)
        rows: list[PackedRow] = []
        new_ids: list[int] = []
        positions: list[int] = []
        ends: list[int] = []  # where in the new tokens each prompt's last one is
        kept_start = 0
        for ids, n_cached in zip(ids_P, n_cached_P, strict=True):
            n_new = len(ids) - n_cached
            spans = Span(kept_start, n_cached), Span(n_past + len(new_ids), n_new)
            rows.append(PackedRow(spans, n_new))
            new_ids += ids[n_cached:]
            positions += range(n_cached, len(ids))
            ends.append(len(new_ids) - 1)
            kept_start += n_cached
        self.n_prefilled_tokens += len(new_ids)
        attend = _Recorded(PackedAttention([rows], device, _past(kept), n_past))
        hidden_T_H = weights.hidden(
            torch.tensor(new_ids, device=device), torch.tensor(positions, device=device), attend
        )
        key_P_S = attend.packed.blocks[0].key_N_S
        return Prefilled(attend.layers, key_P_S, torch.tensor(lengths_P, device=device), hidden_T_H[ends])

    def _store(self, ids_P: Sequence[Ids], prefilled: Prefilled, prefixes: PrefixCache) -> None:
        for p, ids in enumerate(ids_P):
            prefixes.store(ids, partial(prefilled.columns, p))


def _past(kept: Sequence[KeyValues]) -> Past | None:
    """Return kept keys and values, one piece behind the other, by layer; None where there are none."""
    if not kept:
        return None

    def past(layer: int) -> tuple[Tensor, Tensor]:
        keys = [piece[2 * layer] for piece in kept]
        values = [piece[2 * layer + 1] for piece in kept]
        return torch.cat(keys), torch.cat(values)

    return past
