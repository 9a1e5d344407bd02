"""The sizes of a model and of what goes through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_RATIO = 0.5
"""As in `train.pack`; a test says that both agree."""


@dataclass(frozen=True)
class Shape:
    """A causal language model. `intermediate` is the width of its mlp, `vocabulary` the number of rows of its head.

    `n_parameters` counts all, a tied head once. A `fused` model has Llama's layers, see `forward.fused`: trainer and
    sampler put matrices of theirs together from its own.
    """

    hidden: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    n_parameters: int
    tied: bool = True
    qk_norm: bool = False
    fused: bool = True

    @property
    def n_queries(self) -> int:
        """Numbers in the queries of a token."""
        return self.n_heads * self.head_dim

    @property
    def n_keys(self) -> int:
        """Numbers in the keys of a token, and in its values."""
        return self.n_kv_heads * self.head_dim

    @property
    def n_embedding(self) -> int:
        """Numbers in the embedding, and in the head: V H."""
        return self.vocabulary * self.hidden

    @property
    def n_joined(self) -> int:
        """Numbers in the matrices that fused weights multiply and join anew: L (Q + 2 K + 2 I) H."""
        return self.n_layers * (self.n_queries + 2 * self.n_keys + 2 * self.intermediate) * self.hidden

    @property
    def n_plain(self) -> int:
        """Numbers in the layers' other matrices, behind attention and in front of the residual: L (Q + I) H."""
        return self.n_layers * (self.n_queries + self.intermediate) * self.hidden

    @property
    def n_body(self) -> int:
        """Parameters without embedding and head."""
        return self.n_parameters - self.n_embedding * (1 if self.tied else 2)

    def n_adapter(self, rank: int) -> int:
        """Parameters of low-rank adapters (Hu et al., arXiv 2106.09685) of all matrices of the layers: the sum of
        rank (in + out)."""
        h, q, k, i = self.hidden, self.n_queries, self.n_keys, self.intermediate
        sides = ((h, q), (h, k), (h, k), (q, h), (h, i), (h, i), (i, h))
        return self.n_layers * rank * sum(a + b for a, b in sides)

    def cache_bytes(self, itemsize: int) -> int:
        """Bytes that keys and values of one token take in all layers: 2 L K itemsize."""
        return 2 * self.n_layers * self.n_keys * itemsize


@dataclass(frozen=True)
class Batch:
    """A micro-batch: tokens of the flat sequence, trained ones among them, and what attention sees after padding: queries,
    keys, and cells of masks (queries times keys, row by row)."""

    flat: int
    trained: int
    queries: int
    keys: int
    mask: int

    @classmethod
    def of(cls, prompts: Sequence[int], replies: Sequence[tuple[int, int, int]]) -> Batch:
        """From the lengths of the prompts, each counted once, and of each reply (its prompt, its own tokens that are fed,
        and its trained ones)."""
        asking = [(n, n) for n in sorted(prompts, reverse=True)]
        spans = [(fed, before + fed) for before, fed, _ in sorted(replies, key=lambda r: r[1], reverse=True) if fed]
        sizes = [_padded(block) for rows in (asking, spans) for block in _blocks(rows)]
        masks = [_padded(block) for block in _blocks(spans)]
        return cls(
            sum(prompts) + sum(fed for _, fed, _ in replies),
            sum(trained for _, _, trained in replies),
            sum(n * width for n, width, _ in sizes),
            sum(n * keys for n, _, keys in sizes),
            sum(n * width * keys for n, width, keys in masks),
        )


def _blocks(rows: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Rows (queries, keys), longest first, in blocks of like length, as `train.pack` pads them."""
    blocks: list[list[tuple[int, int]]] = []
    for row in rows:
        if not blocks or row[0] < BLOCK_RATIO * blocks[-1][0][0]:
            blocks.append([])
        blocks[-1].append(row)
    return blocks


def _padded(block: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Rows, queries of each and keys of each."""
    return len(block), max(width for width, _ in block), max(keys for _, keys in block)
