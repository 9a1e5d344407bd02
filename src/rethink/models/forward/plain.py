"""The forward pass for every other causal model of `transformers`: its own modules, attention and cache, on padded rows.

Layers that carry a state from token to token (Mamba, linear attention, convolutions) need each row from its start, so rows
share no prefix: a prompt is computed once for each of its replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from rethink.errors import UserError
from rethink.models.forward.attention import MIN_LENGTH_RATIO, AttentionFn, PackedAttention, PackedRow
from rethink.models.forward.embedding import body
from rethink.models.forward.modules import ModuleWeights, own_attention

CACHES = "past_key_values", "cache_params", "state"
"""The names that models have for their caches."""

MAX_TOKENS = 16_384
"""The size of a padded batch, in tokens."""


@dataclass
class PlainState:
    """Rows in progress: the model's cache, and the mask [N, S] of the tokens in it, 0 where a row is padded."""

    mask_N_S: Tensor
    cache: Any = None

    @property
    def can_select(self) -> bool:
        """Return whether the rows of the cache can be chosen, repeated and dropped.

        Caches that a model derives from the library's (MiniMax's) keep states that the library does not know."""
        return type(self.cache) is DynamicCache

    def select(self, rows_N: Tensor) -> None:
        """Continue with these rows; a row may be there several times."""
        self.mask_N_S = self.mask_N_S[rows_N]
        self.cache.reorder_cache(rows_N)


class PlainWeights(ModuleWeights):
    """The module's parameters; see `Weights`. `step` reads rows token by token, with the module's own cache."""

    def _choose_attention(self, module: Any) -> None:
        module.config.get_text_config()._attn_implementation = own_attention(module)

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Return final hidden states [T, H] of a flat sequence; `attend` says which tokens form its rows."""
        if not isinstance(attend, PackedAttention) or attend.past is not None:
            raise UserError("a model that runs with its own attention cannot continue from our KV cache")
        parts: list[Tensor] = []
        places: list[Tensor] = []  # of each state in `parts`, in the flat sequence
        for rows in _batches(_covering_rows(attend.rows, len(ids_T))):
            index_N_S, mask_N_S, is_new_N_S = _padded(rows, ids_T.device)
            states_N_S_H, _ = self._run(ids_T[index_N_S], mask_N_S)
            parts.append(states_N_S_H[is_new_N_S])
            places.append(index_N_S[is_new_N_S])
        return torch.cat(parts)[torch.cat(places).argsort()]

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, PlainState]:
        """Read prompts, padded on the left. Return the hidden states [N, H] after them, and the rows in progress."""
        device, width = self.head.weight.device, max(map(len, prompts))
        ids = [(0,) * (width - len(prompt)) + tuple(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        state = PlainState(torch.tensor(mask, device=device))
        states_N_S_H, state.cache = self._run(torch.tensor(ids, device=device), state.mask_N_S, use_cache=True)
        return states_N_S_H[:, -1], state

    def step(self, ids_N: Tensor, state: PlainState) -> Tensor:
        """Read one more token of each row; return the hidden states [N, H] after it."""
        state.mask_N_S = pad(state.mask_N_S, (0, 1), value=1)
        states_N_1_H, state.cache = self._run(ids_N[:, None], state.mask_N_S, use_cache=True, cache=state.cache)
        return states_N_1_H[:, -1]

    def _run(
        self, ids_N_S: Tensor, mask_N_S: Tensor, *, use_cache: bool = False, cache: Any = None
    ) -> tuple[Tensor, Any]:
        """Return final hidden states [N, S, H] of the tokens that come after those in the cache, and the new cache."""
        inner = body(self.module)
        known = signature(inner.forward).parameters
        name = next(name for name in CACHES if name in known) if cache is not None or use_cache else ""
        given: dict[str, Any] = {"use_cache": use_cache}
        if cache is not None:
            given[name] = cache
        # A state has no padding left in it, and its models want no mask for one more token.
        if "attention_mask" in known and (cache is None or name == CACHES[0]):
            given["attention_mask"] = mask_N_S
        if "position_ids" in known:
            given["position_ids"] = (mask_N_S.cumsum(-1) - 1).clamp(min=0)[:, -ids_N_S.shape[1] :]
        with self._autocast():
            out = inner(input_ids=ids_N_S, **given)
        states: Tensor = self._scaled(out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0])
        return states, getattr(out, name) if use_cache else None


@dataclass(frozen=True)
class _Row:
    """The places of a row's tokens in the flat sequence, and the indices of those that no earlier row has."""

    places: list[int]
    new: list[int]


def _covering_rows(rows: Sequence[PackedRow], n: int) -> list[_Row]:
    """Return rows, the longest first, that have each of the n tokens at least once.

    A prompt is left out if it is the start of a reply's row: its states are the same there."""
    seen = [False] * n
    found: list[_Row] = []
    for row in sorted(rows, key=lambda row: row.n_keys, reverse=True):
        places: list[int] = []
        for start, length in row.spans:
            places += range(start, start + length)
        new = [s for s, place in enumerate(places) if not seen[place]]
        for s in new:
            seen[places[s]] = True
        if new:
            found.append(_Row(places, new))
    return found


def _padded(rows: Sequence[_Row], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places [N, S] of the rows' tokens, padded on the right, their mask, and which of them are new."""
    width = max(len(row.places) for row in rows)
    index = np.zeros((len(rows), width), dtype=np.int64)
    mask, is_new = np.zeros_like(index), np.zeros(index.shape, dtype=np.bool_)
    for i, row in enumerate(rows):
        index[i, : len(row.places)] = row.places
        mask[i, : len(row.places)] = 1
        is_new[i, row.new] = True
    found = torch.from_numpy(index), torch.from_numpy(mask), torch.from_numpy(is_new)
    return found[0].to(device), found[1].to(device), found[2].to(device)


def _batches(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Group rows of similar length, at most `MAX_TOKENS` tokens together; a longer row is alone."""
    found: list[list[_Row]] = []
    for row in rows:
        width = len(found[-1][0].places) if found else 0
        if not found or len(row.places) < MIN_LENGTH_RATIO * width or (len(found[-1]) + 1) * width > MAX_TOKENS:
            found.append([])
        found[-1].append(row)
    return found
