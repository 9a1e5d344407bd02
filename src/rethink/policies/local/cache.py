"""The key/value cache: one allocation for prompt and reply, written in place; rows can leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

KeyValues = list[Tensor]
"""Keys [heads, T, d] and values of some tokens, layer by layer: keys, values, keys, values, ..."""


class Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values [N, heads, T, d] of one layer; columns beyond `length` are unused space."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.capacity = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, d = key_states.shape
        self.keys = key_states.new_empty((rows, heads, self.capacity, d))
        self.values = value_states.new_empty((rows, heads, self.capacity, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns behind the old and return views of all that are in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def take(self, rows: Tensor, capacity: int) -> None:
        """Keep (or repeat) the given rows, in that order, with room for `capacity` columns."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty((len(rows), old.shape[1], capacity, old.shape[3]))
            new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
            setattr(self, name, new)

    def begin(self, rows: int, length: int, keys: Tensor, values: Tensor) -> None:
        """Count `length` columns as written, all zero; keys and values [heads, T, d] show the shape."""
        self.lazy_initialization(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
        self.length = length
        # Not left as found: attention weighs padding with 0, and 0 times NaN is NaN.
        self.keys[:, :, :length] = 0
        self.values[:, :, :length] = 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    get_max_cache_shape = get_max_length  # its name before transformers 5.20

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.length + new, 0


class RowCache(Cache):  # type: ignore[misc]
    """A cache of `n_layers` layers with room for `capacity` columns in each row."""

    def __init__(self, n_layers: int, capacity: int) -> None:
        super().__init__(layers=[Layer() for _ in range(n_layers)])
        for layer in self.layers:
            layer.capacity = capacity

    def take(self, rows: Tensor, capacity: int) -> None:
        """Keep (or repeat) the given rows in every layer."""
        for layer in self.layers:
            layer.take(rows, capacity)

    def begin(self, rows: int, length: int, like: KeyValues) -> None:
        """Count `length` columns as written, all zero; keys and values of the shape of `like`."""
        for layer, keys, values in zip(self.layers, like[::2], like[1::2], strict=True):
            layer.begin(rows, length, keys, values)

    def fill(self, row: int, column: int, kept: KeyValues) -> None:
        """Write keys and values that were computed before into a row, from that column on."""
        for tensor, old in zip(self._tensors(), kept, strict=True):
            tensor[row, :, column : column + old.shape[1]] = old

    def columns(self, row: int, start: int, end: int) -> KeyValues:
        """A copy of the keys and values of a row, from column `start` to before `end`."""
        return [tensor[row, :, start:end].clone() for tensor in self._tensors()]

    def token_bytes(self) -> int:
        """Bytes of keys and values that one token takes in all layers."""
        return sum(tensor[0, :, 0].nbytes for tensor in self._tensors())

    def _tensors(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token takes in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(d) * dtype.itemsize
