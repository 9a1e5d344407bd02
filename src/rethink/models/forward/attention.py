"""Causal attention within rows of a flat sequence, where several rows may share a prefix.

The linear layers process each token once, without padding. Only attention puts tokens into rows: the replies to one prompt
are rows that all begin with the prompt's tokens, which are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MIN_LENGTH_RATIO = 0.5
"""Rows are padded to one length if the shortest has at least this fraction of the longest one's queries."""


class AttentionFn(Protocol):
    """Attention of one layer over the flat sequence.

    Queries are [T, A, D], keys and values [T, K, D], rotary positions applied; A is a multiple of K. The result is
    [T, A, D]. With a `window`, a query sees the last `window` positions, including its own.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None) -> Tensor: ...


class Span(NamedTuple):
    """A contiguous range of tokens in the flat sequence."""

    start: int
    length: int


class PackedRow(NamedTuple):
    """The tokens of a row, from position 0. The last `n_queries` are queries; all are keys."""

    spans: tuple[Span, ...]
    n_queries: int

    @property
    def n_keys(self) -> int:
        """The number of tokens in the row, all of which the last query sees."""
        return sum(span.length for span in self.spans)


def group_by_length(rows: Sequence[PackedRow]) -> list[list[PackedRow]]:
    """Group rows of similar length into blocks for `PackedAttention`; rows without queries are dropped.

    `rows` must be sorted by `n_queries`, longest first."""
    found: list[list[PackedRow]] = []
    for row in rows:
        if not row.n_queries:
            continue
        if not found or row.n_queries < MIN_LENGTH_RATIO * found[-1][0].n_queries:
            found.append([])
        found[-1].append(row)
    return found


@dataclass(frozen=True)
class _Block:
    """Rows that are computed together, padded on the right.

    `query_N_R` and `key_N_S` are indices into the flat sequence, `before_N` counts the keys before the first query, and
    `real` has the indices of the real queries in [N * R]; None without padding.
    """

    query_N_R: Tensor
    key_N_S: Tensor
    before_N: Tensor
    real: Tensor | None
    causal: bool
    masks: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Return the additive mask [N, 1, R, S]: 0 where a query may attend, else -inf; None for plain causal attention.

        All layers share one mask. With a boolean mask, each layer would build its own and keep it for the backward pass."""
        if (window, dtype) not in self.masks:
            self.masks[window, dtype] = None if self.causal and window is None else self._mask(window, dtype)
        return self.masks[window, dtype]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        device = self.before_N.device
        query = self.before_N[:, None, None] + torch.arange(self.query_N_R.shape[1], device=device)[:, None]
        key = torch.arange(self.key_N_S.shape[1], device=device)
        # Padding queries attend to something, too: a softmax over nothing is NaN.
        seen = key <= query
        if window is not None:
            seen = seen & (query - key < window)
        hidden = ~seen[:, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


class PackedAttention:
    """Attention over the rows of several blocks. The flat sequence holds the queries block by block, row by row.

    `past(layer)` returns `n_past` earlier keys and values [T, K, D]. They come before the flat sequence, and spans count
    from the first of them.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[PackedRow]],
        device: torch.device | str = "cpu",
        past: Callable[[int], tuple[Tensor, Tensor]] | None = None,
        n_past: int = 0,
    ) -> None:
        self.past = past
        self.blocks = [_block(rows, n_past, device) for rows in blocks if rows]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None) -> Tensor:
        if self.past is not None:
            past_k, past_v = self.past(layer)
            k, v = torch.cat([past_k, k]), torch.cat([past_v, v])
        outs = [_attention(block, q, k, v, scale, window) for block in self.blocks]
        return outs[0] if len(outs) == 1 else torch.cat(outs)


def _attention(block: _Block, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    mask = block.mask(window, q.dtype)
    out = scaled_dot_product_attention(
        q[block.query_N_R].transpose(1, 2),
        k[block.key_N_S].transpose(1, 2),
        v[block.key_N_S].transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if block.real is None else flat[block.real]


def _block(rows: Sequence[PackedRow], n_past: int, device: torch.device | str) -> _Block:
    n_queries = np.array([row.n_queries for row in rows])
    n_keys = np.array([row.n_keys for row in rows])
    before, width = n_keys - n_queries, int(n_queries.max())
    keys = _keys(rows, int(n_keys.max()))
    # Pad with the row's first query, since indices must be valid.
    real = np.arange(width) < n_queries[:, None]
    queries = np.take_along_axis(keys, before[:, None] + np.where(real, np.arange(width), 0), 1) - n_past
    return _Block(
        torch.from_numpy(queries).to(device),
        torch.from_numpy(keys).to(device),
        torch.from_numpy(before).to(device),
        None if real.all() else torch.from_numpy(real.ravel().nonzero()[0]).to(device),
        not before.any(),
    )


def _keys(rows: Sequence[PackedRow], width: int) -> NDArray[np.int64]:
    """Return the indices [N, width] of the rows' tokens, padded with each row's first token."""
    keys = np.empty((len(rows), width), dtype=np.int64)
    keys[:] = np.array([[row.spans[0].start] for row in rows])
    offsets = np.arange(width)
    for row, places in zip(rows, keys, strict=True):
        column = 0
        for start, length in row.spans:
            np.add(offsets[:length], start, out=places[column : column + length])
            column += length
    return keys


def sliding_window(config: object, layer: int) -> int | None:
    """Return the width of a layer's sliding window; None for full attention."""
    kinds = getattr(config, "layer_types", None)
    if (kinds and kinds[layer] != "sliding_attention") or not getattr(config, "use_sliding_window", True):
        return None
    width: int | None = getattr(config, "sliding_window", None)
    return width
