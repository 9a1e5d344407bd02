"""Causal attention within rows of a flat sequence, where several rows may share a prefix.

The linear layers process each token once, without padding. Only attention puts tokens into rows: the replies to one prompt
are rows that all begin with the prompt's tokens, which are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rethink.models.forward import varlen

CHUNKED = "chunked_attention"
"""The type of layers in which a query sees only its chunk."""

MIN_LENGTH_RATIO = 0.5
"""Rows are padded to one length if the shortest has at least this fraction of the longest one's queries."""


class Variant(NamedTuple):
    """What some families add to the attention of a layer.

    softcap  a limit of the scores: softcap * tanh(scores / softcap) (arXiv 2408.00118)
    sinks    [A], a score of each head for attending to nothing (GPT-OSS, arXiv 2309.17453)
    chunked  the window is a chunk: a query sees no position before a multiple of it (Llama 4)
    image_T  the number of the image that each token of the flat sequence is of, -1 for text: tokens of one image attend to
             each other in both directions (Gemma 3)
    """

    softcap: float | None = None
    sinks: Tensor | None = None
    chunked: bool = False
    image_T: Tensor | None = None


PLAIN = Variant()


class AttentionFn(Protocol):
    """Attention of one layer over the flat sequence.

    Queries are [T, A, D], keys and values [T, K, D], rotary positions applied; A is a multiple of K. The result is
    [T, A, D]. With a `window`, a query sees the last `window` positions, including its own.
    """

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
    ) -> Tensor: ...


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

    `query_N_R` and `key_N_S` are indices into the flat sequence; those of keys count from the first of `n_past` earlier
    ones. `before_N` counts the keys before the first query, and `real` has the indices of the real queries in [N * R]; None
    without padding.
    """

    query_N_R: Tensor
    key_N_S: Tensor
    before_N: Tensor
    real: Tensor | None
    causal: bool
    n_past: int
    masks: dict[tuple[int | None, bool, bool, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, variant: Variant, dtype: torch.dtype) -> Tensor:
        """Return the additive mask [N, 1, R, S]: 0 where a query may attend, else -inf.

        All layers share one mask. With a boolean mask, each layer would build its own and keep it for the backward pass."""
        key = window, variant.chunked, variant.image_T is not None, dtype
        if key not in self.masks:
            self.masks[key] = self._mask(window, variant, dtype)
        return self.masks[key]

    def _mask(self, window: int | None, variant: Variant, dtype: torch.dtype) -> Tensor:
        device = self.before_N.device
        query = self.before_N[:, None, None] + torch.arange(self.query_N_R.shape[1], device=device)[:, None]
        key = torch.arange(self.key_N_S.shape[1], device=device)
        # Padding queries attend to something, too, also with a window: a softmax over nothing is NaN, with its gradients.
        query = query.clamp(max=len(key) - 1)
        seen = key <= query
        if variant.image_T is not None:
            image_N_S = self._images(variant.image_T)
            own_N_R_1 = image_N_S.gather(1, query[:, :, 0])[:, :, None]
            seen = seen | ((own_N_R_1 == image_N_S[:, None]) & (own_N_R_1 >= 0))
        if window is not None:
            seen = seen & in_window(query, key, window, variant.chunked)
        hidden = ~seen[:, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)

    def _images(self, image_T: Tensor) -> Tensor:
        """Return the number [N, S] of the image that each key is of; -1 for text, padding and earlier keys.

        No image is in part among the earlier keys: prompts that begin alike share a whole image or none of it."""
        is_other_N_S = self.key_N_S < self.n_past
        is_other_N_S[:, 1:] |= self.key_N_S[:, 1:] == self.key_N_S[:, :1]  # padding repeats the row's first key
        return image_T[(self.key_N_S - self.n_past).clamp(min=0)].masked_fill(is_other_N_S, -1)


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
        self.device = device
        self.rows = [row for rows in blocks for row in rows]
        self.blocks = [_block(rows, n_past, device) for rows in blocks if rows]

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
        if self.past is not None:
            past_k, past_v = self.past(layer)
            k, v = torch.cat([past_k, k]), torch.cat([past_v, v])
        if _is_plain(variant, window) and varlen.fits(q, k, window):
            return varlen.attend(self._lengths, q, k, v, scale, window)
        outs = [_attention(block, q, k, v, scale, window, variant) for block in self.blocks]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    @cached_property
    def _lengths(self) -> varlen.Lengths:
        return varlen.lengths([row for row in self.rows if row.n_queries], self.device)


def _is_plain(variant: Variant, window: int | None) -> bool:
    """Return whether a family adds nothing to the attention but a window."""
    is_chunked = variant.chunked and window is not None
    return not is_chunked and variant.softcap is None and variant.sinks is None and variant.image_T is None


def _attention(
    block: _Block, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, variant: Variant
) -> Tensor:
    queries, keys = q[block.query_N_R].transpose(1, 2), k[block.key_N_S].transpose(1, 2)
    values = v[block.key_N_S].transpose(1, 2)
    if variant.softcap is not None or variant.sinks is not None:
        out = _written_out(queries, keys, values, block.mask(window, variant, q.dtype), scale, variant)
    else:
        plain = block.causal and window is None and variant.image_T is None
        out = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if plain else block.mask(window, variant, q.dtype),
            is_causal=plain,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if block.real is None else flat[block.real]


def _written_out(
    q_N_A_R_D: Tensor, k_N_K_S_D: Tensor, v_N_K_S_D: Tensor, mask: Tensor, scale: float, variant: Variant
) -> Tensor:
    """Return the attention [N, A, R, D] with soft caps or sinks, which torch's kernels do not have."""
    n_kv = k_N_K_S_D.shape[1]
    q = q_N_A_R_D.unflatten(1, (n_kv, -1)) * scale
    scores = q @ k_N_K_S_D.transpose(2, 3)[:, :, None]
    weights = attention_weights(capped(scores, variant.softcap) + mask[:, :, None], variant.sinks)
    return (weights @ v_N_K_S_D[:, :, None]).flatten(1, 2)


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(scores / softcap)."""
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def attention_weights(scores: Tensor, sinks: Tensor | None = None) -> Tensor:
    """Return the softmax of scores [N, K, A / K, ..., S], computed in float32 at least.

    A sink [A] is one more score, whose weight is dropped."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if sinks is None:
        return scores.softmax(-1, dtype=dtype).to(scores.dtype)
    n_kv, n_repeats = scores.shape[1:3]
    column = sinks.view(1, n_kv, n_repeats, *[1] * (scores.dim() - 3)).expand(*scores.shape[:-1], 1)
    with_sinks = torch.cat([scores, column.to(scores.dtype)], -1)
    return with_sinks.softmax(-1, dtype=dtype)[..., :-1].to(scores.dtype)


def in_window(query: Tensor, key: Tensor, window: int, chunked: bool) -> Tensor:
    """Return whether the key's position is in the window, or in the chunk, of the query's."""
    return query // window == key // window if chunked else query - key < window


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
        n_past,
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
    """Return the width of a layer's sliding window, or chunk; None for full attention."""
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] == CHUNKED:
        return int(config.attention_chunk_size)  # type: ignore[attr-defined]
    if (kinds and kinds[layer] != "sliding_attention") or not getattr(config, "use_sliding_window", True):
        return None
    width: int | None = getattr(config, "sliding_window", None)
    return width
