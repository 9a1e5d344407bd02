"""Prompts through the model: all of each, or what is new in it since earlier prompts and replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.model import LanguageModel
from rethink.policies.local.cache import RowCache
from rethink.policies.local.mask import attention_mask
from rethink.policies.local.prefixes import Ids, Prefixes, shared_beginnings

WORTH_A_PASS = 32
"""A beginning that prompts share gets a forward pass of its own if it has this many tokens that are not kept yet; a pass
over fewer takes about as long as it saves."""


@dataclass(frozen=True)
class Prefilled:
    """Prompts with their keys and values, left-padded, so that all rows write their next token into the same column."""

    cache: RowCache
    hidden_P_H: Tensor
    positions_P_T: Tensor


class Prefiller:
    """Computes prompts; while it has `prefixes`, only what these lack.

    `n_prefilled_tokens` counts the prompt tokens that had to be computed (a beginning that several prompts share counts
    once, and a prompt that was taken from the store counts its last token), `n_reused_tokens` those of prompts whose keys
    and values were kept. Padding is in neither, nor what a row recomputes because its neighbours lack more.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.prefixes: Prefixes | None = None
        self.n_prefilled_tokens = 0
        self.n_reused_tokens = 0

    def n_lacking(self, ids: Ids) -> int:
        """How many tokens of a prompt have to be computed. The last one always is: its logits are needed."""
        return len(ids) if self.prefixes is None else len(ids) - min(self.prefixes.n_kept(ids), len(ids) - 1)

    def prefill(self, ids_P: Sequence[Ids]) -> tuple[RowCache, Tensor, Tensor]:
        """The prompts' cache, the logits [P, V] behind them, and their positions [P, T] (-1 = padding)."""
        if self.prefixes is not None:
            self._compute_shared(ids_P, self.prefixes)
        self.n_reused_tokens += sum(len(ids) - self.n_lacking(ids) for ids in ids_P)
        prefilled = self._compute(ids_P)
        logits_P_V = self.model.logits(prefilled.hidden_P_H)
        if logits_P_V.isnan().any():
            raise UserError("the model's logits are not numbers: its weights hold NaN, or overflow in this precision")
        if self.prefixes is not None:
            self._keep(ids_P, prefilled, self.prefixes)
        return prefilled.cache, logits_P_V, prefilled.positions_P_T

    def _compute_shared(self, ids_P: Sequence[Ids], prefixes: Prefixes) -> None:
        """Compute once what several prompts begin with; and before that, what several of these beginnings begin with."""
        shared_P = shared_beginnings(ids_P, prefixes, WORTH_A_PASS)
        if shared_P:
            self._compute_shared(shared_P, prefixes)
            self._keep(shared_P, self._compute(shared_P), prefixes)

    def _compute(self, ids_P: Sequence[Ids]) -> Prefilled:
        lacking_P = [self.n_lacking(ids) for ids in ids_P]
        self.n_prefilled_tokens += sum(lacking_P)
        ids_P_T, positions_P_T = self._padded(ids_P)
        n_new = max(lacking_P)
        cache = self._filled(ids_P, n_new)
        mask = attention_mask(self.model.config, positions_P_T[:, -n_new:], positions_P_T)
        hidden_P_T_H = self.model.hidden(ids_P_T[:, -n_new:], positions_P_T[:, -n_new:].clamp(min=0), mask, cache)
        return Prefilled(cache, hidden_P_T_H[:, -1], positions_P_T)

    def _padded(self, ids_P: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        width = max(map(len, ids_P))
        ids_P_T = torch.zeros((len(ids_P), width), dtype=torch.long)
        positions_P_T = torch.full((len(ids_P), width), -1, dtype=torch.long)
        for p, ids in enumerate(ids_P):
            ids_P_T[p, width - len(ids) :] = torch.tensor(ids)
            positions_P_T[p, width - len(ids) :] = torch.arange(len(ids))
        return ids_P_T.to(self.model.device), positions_P_T.to(self.model.device)

    def _filled(self, ids_P: Sequence[Ids], n_new: int) -> RowCache:
        """A cache that holds all columns but the last `n_new`. Rows that lack fewer compute the rest once more."""
        width = max(map(len, ids_P))
        cache = RowCache(self.model.config.num_hidden_layers, width)
        if self.prefixes is None or n_new == width:
            return cache
        kept_P = [self.prefixes.find(ids[: max(0, len(ids) - n_new)]) for ids in ids_P]
        cache.begin(len(ids_P), width - n_new, next(kept[0] for kept in kept_P if kept))
        for p, (ids, kept) in enumerate(zip(ids_P, kept_P, strict=True)):
            column = width - len(ids)
            for stretch in kept:
                cache.fill(p, column, stretch)
                column += stretch[0].shape[1]
        return cache

    def _keep(self, ids_P: Sequence[Ids], prefilled: Prefilled, prefixes: Prefixes) -> None:
        width = prefilled.positions_P_T.shape[1]
        for p, ids in enumerate(ids_P):
            prefixes.keep(ids, prefilled.cache, p, width - len(ids))
