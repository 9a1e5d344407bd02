"""Prompts through the model: all of each, or what is new in it since earlier prompts and replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.forward import PackedAttention, PackedRow, Span, Weights
from rethink.models.forward.weights import logits
from rethink.policies.local.prefixes import Ids, KeyValues, Prefixes, shared_beginnings

WORTH_A_PASS = 32
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
        """A copy of keys and values of a prompt's tokens from `start` to before `end`."""
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
        self.prefixes: Prefixes | None = None
        self.n_prefilled_tokens = 0
        self.n_reused_tokens = 0

    def count(self, others: Sequence[Prefiller]) -> None:
        """Add what others have counted."""
        for other in others:
            if other is not self:
                self.n_prefilled_tokens += other.n_prefilled_tokens
                self.n_reused_tokens += other.n_reused_tokens

    def n_lacking(self, ids: Ids) -> int:
        """How many tokens of a prompt have to be computed. The last one always is: its logits are needed."""
        return len(ids) if self.prefixes is None else len(ids) - min(self.prefixes.n_kept(ids), len(ids) - 1)

    def prefill(self, weights: Weights, ids_P: Sequence[Ids]) -> tuple[Prefilled, Tensor]:
        """The prompts, and the logits [P, V] behind them."""
        if self.prefixes is not None:
            self._compute_shared(weights, ids_P, self.prefixes)
        self.n_reused_tokens += sum(len(ids) - self.n_lacking(ids) for ids in ids_P)
        prefilled = self._compute(weights, ids_P)
        logits_P_V = logits(prefilled.hidden_P_H, weights.head)
        if logits_P_V.isnan().any():
            raise UserError("the model's logits are not numbers: its weights hold NaN, or overflow in this precision")
        if self.prefixes is not None:
            self._keep(ids_P, prefilled, self.prefixes)
        return prefilled, logits_P_V

    def _compute_shared(self, weights: Weights, ids_P: Sequence[Ids], prefixes: Prefixes) -> None:
        """Compute once what several prompts begin with; and before that, what several of these beginnings begin with."""
        shared_P = shared_beginnings(ids_P, prefixes, WORTH_A_PASS)
        if shared_P:
            self._compute_shared(weights, shared_P, prefixes)
            self._keep(shared_P, self._compute(weights, shared_P), prefixes)

    def _compute(self, weights: Weights, ids_P: Sequence[Ids]) -> Prefilled:
        device = weights.head[0].device
        lacking_P = [self.n_lacking(ids) for ids in ids_P]
        self.n_prefilled_tokens += sum(lacking_P)
        kept_P = [self._find(ids[: len(ids) - n]) for ids, n in zip(ids_P, lacking_P, strict=True)]
        past, n_past = _past(kept_P)
        spans = _spans([len(ids) for ids in ids_P], lacking_P, n_past)
        rows = [PackedRow(both, n) for both, n in zip(spans, lacking_P, strict=True)]
        attend = _Recorded(PackedAttention([rows], device, past, n_past))
        new = torch.tensor(
            [t for ids, n in zip(ids_P, lacking_P, strict=True) for t in ids[len(ids) - n :]], device=device
        )
        before = [torch.arange(len(ids) - n, len(ids)) for ids, n in zip(ids_P, lacking_P, strict=True)]
        hidden_T_H = weights.hidden(new, torch.cat(before).to(device), attend)
        ends = torch.tensor(lacking_P, device=device).cumsum(0) - 1
        lengths_P = torch.tensor([len(ids) for ids in ids_P], device=device)
        return Prefilled(attend.layers, attend.packed.blocks[0].key_N_S, lengths_P, hidden_T_H[ends])

    def _find(self, ids: Ids) -> list[KeyValues]:
        return [] if self.prefixes is None else self.prefixes.find(ids)

    def _keep(self, ids_P: Sequence[Ids], prefilled: Prefilled, prefixes: Prefixes) -> None:
        for p, ids in enumerate(ids_P):
            prefixes.keep(ids, lambda start, end, p=p: prefilled.columns(p, start, end))  # type: ignore[misc]


def _past(kept_P: Sequence[list[KeyValues]]) -> tuple[Past | None, int]:
    """Kept keys and values of all prompts, one behind the other, by layer; and the number of their tokens."""
    spans = [span for kept in kept_P for span in kept]
    if not spans:
        return None, 0

    def past(layer: int) -> tuple[Tensor, Tensor]:
        return torch.cat([s[2 * layer] for s in spans]), torch.cat([s[2 * layer + 1] for s in spans])

    return past, sum(len(s[0]) for s in spans)


def _spans(lengths: Sequence[int], lacking: Sequence[int], n_past: int) -> list[tuple[Span, ...]]:
    """Where each prompt's kept and new tokens are: all kept ones come first, then all new ones."""
    found: list[tuple[Span, ...]] = []
    kept, new = 0, n_past
    for length, n in zip(lengths, lacking, strict=True):
        found.append((Span(kept, length - n), Span(new, n)))
        kept, new = kept + length - n, new + n
    return found
