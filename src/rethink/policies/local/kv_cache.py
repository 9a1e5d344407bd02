"""The KV cache of decoding: each prompt's keys and values once for all replies to it, and each reply's own.

Both are allocated once and written in place. Rows and prompts occupy slots. A finished row frees its slot for a waiting
prompt, or the last row moves there, so the slots in use are always the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rethink.models.forward.attention import PLAIN, Variant, attention_weights, capped, in_window
from rethink.models.language_model import LanguageModel
from rethink.policies.local.prefill import Prefilled
from rethink.policies.local.prefix_cache import KeyValues

BUCKET, GRAPH_BUCKET = 16, 64
"""Reply columns are opened this many at a time, so most steps work on tensors of the same shapes. With CUDA graphs more are
opened, because recording a graph takes longer than a step."""

MIN_SHARED_TOKENS = 32
"""Shorter prompts are copied to each row: reading a copy is cheaper than gathering the shared one."""


@dataclass(frozen=True)
class CacheShape:
    """The size of a cache. Reply columns are used as a ring buffer, so a row can start at any time."""

    n_rows: int
    n_prompts: int
    prompt_columns: int
    reply_columns: int

    @property
    def own_columns(self) -> int:
        """The columns of each row that hold a copy of its prompt."""
        return self.prompt_columns if self.prompt_columns < MIN_SHARED_TOKENS else 0

    @property
    def n_tokens(self) -> int:
        """The number of tokens that fit, per layer."""
        n_shared = 0 if self.own_columns else self.n_prompts * self.prompt_columns
        return n_shared + self.n_rows * (self.own_columns + self.reply_columns)


class Cache:
    """The attention of decoding (an `AttentionFn`): one query per row, over its prompt's keys and its own.

    With `recorded`, a step reads its column from a tensor, so a recorded step can be replayed for other columns as long as
    `n_layouts` does not change (see `Graphs`).
    """

    only_tokens = True  # prompts may have images, but replies have none (`embedding.embed_images`)

    def __init__(self, shape: CacheShape, like: Prefilled, *, recorded: bool = False) -> None:
        keys = like.layers[0][0]
        s, n_shared = shape, 0 if shape.own_columns else shape.n_prompts
        self.shape, self.device = shape, keys.device
        self.prompts: list[Tensor] = []
        self.replies: list[Tensor] = []
        for tensor in (t for layer in like.layers for t in layer):  # layers may differ in number and size of heads
            n_heads, d = tensor.shape[1:]
            self.prompts.append(tensor.new_zeros(n_shared, n_heads, s.prompt_columns, d))
            self.replies.append(tensor.new_empty(s.n_rows, n_heads, s.own_columns + s.reply_columns, d))
        # Must be zeroed: empty columns have attention weight 0, and 0 times NaN is NaN.
        for tensor in self.replies:
            tensor[:, :, : s.own_columns] = 0
        # The position of each column's token in its row (prompt columns, then reply columns); -1 = empty.
        width = s.prompt_columns + s.reply_columns
        self.positions = torch.full((s.n_rows, width), -1, dtype=torch.int32, device=keys.device)
        self.prompt_of = torch.zeros(s.n_rows, dtype=torch.long, device=keys.device)
        self.bucket = GRAPH_BUCKET if recorded else BUCKET
        self.column_1 = torch.zeros(1, dtype=torch.long, device=keys.device) if recorded else None
        self.n_rows = self.n_prompts = self.n_steps = self.n_open = self.n_layouts = 0

    def admit(self, prompts: Sequence[int], rows: Tensor, prompt_of: Tensor, prefilled: Prefilled) -> None:
        """Put new prompts into the slots `prompts` and new rows into the slots `rows`.

        `prompt_of` has each new row's prompt slot."""
        if self.n_rows == 0:
            self.n_steps = self.n_open = 0
        slots = torch.full((self.shape.n_prompts,), -1, device=self.device)
        slots[torch.tensor(list(prompts), device=self.device)] = torch.arange(len(prompts), device=self.device)
        owner = slots[prompt_of]
        flat = [tensor for layer in prefilled.layers for tensor in layer]
        width = prefilled.key_P_S.shape[1]
        for prompt, reply, tensor in zip(self.prompts, self.replies, flat, strict=True):
            new = tensor[prefilled.key_P_S].transpose(1, 2)
            reply[rows, :, self.shape.own_columns : self.shape.own_columns + self.n_open] = 0
            if self.shape.own_columns:
                reply[rows, :, :width] = new[owner]
            else:
                prompt[list(prompts), :, :width] = new
        columns = torch.arange(self.shape.prompt_columns, dtype=torch.int32, device=self.device).expand(len(rows), -1)
        self.positions[rows] = -1
        known = columns.where(columns < prefilled.lengths_P[owner][:, None], -1)
        self.positions[rows, : self.shape.prompt_columns] = known
        self.prompt_of[rows] = prompt_of
        self.n_prompts = max(self.n_prompts, max(prompts) + 1)
        self.n_rows = max(self.n_rows, int(rows.max()) + 1)
        self._group_rows()

    def move(self, rows: tuple[Tensor, Tensor], n_rows: int, prompts: tuple[Tensor, Tensor], n_prompts: int) -> None:
        """Move rows and prompts, each given as (old slots, new slots); use the first `n_rows` and `n_prompts` slots."""
        _copy_slots(self.replies, rows, self.shape.own_columns + self.n_open)
        _copy_slots(self.prompts, prompts, self.shape.prompt_columns)
        for tensor in (self.positions, self.prompt_of):
            tensor[rows[1]] = tensor[rows[0]]
        slots = torch.arange(self.shape.n_prompts, device=self.device)
        slots[prompts[0]] = prompts[1]
        self.prompt_of = slots[self.prompt_of]
        self.n_rows, self.n_prompts = n_rows, n_prompts
        self._group_rows()

    def zero(self, prompt: int) -> None:
        """Zero a prompt's slot and those of its rows: NaN in columns that a later, shorter prompt leaves empty would get
        into its replies."""
        rows = self.prompt_of == prompt
        for prompts, replies in zip(self.prompts, self.replies, strict=True):
            prompts[prompt : prompt + 1] = 0
            replies[rows] = 0

    def _group_rows(self) -> None:
        """Group rows by prompt: `members` [G * M] has their slots, padded with 0; `member_of_row` [N] indexes into it."""
        prompt_of = self.prompt_of[: self.n_rows]
        order = prompt_of.argsort(stable=True)
        counts = prompt_of.bincount(minlength=self.n_prompts)
        first = counts.cumsum(0) - counts
        sorted_of = prompt_of[order]
        rank = torch.arange(self.n_rows, device=self.device) - first[sorted_of]
        n_members = int(counts.max())
        self.members = torch.zeros(self.n_prompts * n_members, dtype=torch.long, device=self.device)
        self.members[sorted_of * n_members + rank] = order
        self.member_of_row = torch.empty(self.n_rows, dtype=torch.long, device=self.device)
        self.member_of_row[order] = sorted_of * n_members + rank
        self._update_views()

    def begin_step(self) -> None:
        """Make room for one more token of each row."""
        self.column = self.n_steps % self.shape.reply_columns
        self.n_steps += 1
        if self.column >= self.n_open:
            self._open_columns()
        if self.column_1 is not None:
            self.column_1.fill_(self.column)

    def write_positions(self, positions_N: Tensor) -> None:
        """Set the position of each row's new token."""
        self._write(self.positions[: self.n_rows], 1, self.shape.prompt_columns, positions_N.to(torch.int32))
        self._key_positions = self.positions[: self.n_rows, : self.shape.prompt_columns + self.n_open]
        self._query_positions = positions_N
        self._biases: dict[tuple[int | None, bool], Tensor] = {}

    def _write(self, into: Tensor, axis: int, first: int, new: Tensor) -> None:
        """Write `new` into the step's column; reply columns begin at `first`."""
        if self.column_1 is None:
            into.select(axis, first + self.column).copy_(new)  # two to three times as fast as with a tensor index
        else:
            into.index_copy_(axis, self.column_1 + first, new.unsqueeze(axis))

    def _open_columns(self) -> None:
        own, before = self.shape.own_columns, self.n_open
        self.n_open = min(self.shape.reply_columns, before + self.bucket)
        for tensor in self.replies:
            tensor[: self.n_rows, :, own + before : own + self.n_open] = 0
        self._update_views()

    def _update_views(self) -> None:
        """Update the views of the slots and columns in use, layer by layer: shared prompts, and each row's own."""
        self.n_layouts += 1
        end = self.shape.own_columns + self.n_open
        own = [tensor[: self.n_rows, :, :end] for tensor in self.replies]
        shared = [tensor[: self.n_prompts] for tensor in self.prompts]
        self._own = list(zip(own[::2], own[1::2], strict=True))
        self._shared = list(zip(shared[::2], shared[1::2], strict=True))

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
        """Return the attention [N, A, D] of one query per row; see `forward.AttentionFn`."""
        keys, values = self._own[layer]
        self._write(keys, 2, self.shape.own_columns, k)
        self._write(values, 2, self.shape.own_columns, v)
        n_rows, n_heads, _, d = keys.shape
        q_N_K_R_D = (q if scale == 1 else q * scale).view(n_rows, n_heads, -1, d)
        bias = self._bias(window, variant.chunked)
        if self.shape.own_columns:
            scores = capped(q_N_K_R_D @ keys.transpose(2, 3), variant.softcap).add_(bias)
            return (attention_weights(scores, variant.sinks) @ values).flatten(1, 2)
        return self._attend_shared(q_N_K_R_D, keys, values, *self._shared[layer], bias, variant).flatten(1, 2)

    def _attend_shared(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        bias: Tensor,
        variant: Variant,
    ) -> Tensor:
        """Return the attention over the prompt's keys, read once for all rows that share them, and the row's own."""
        n_repeats = q.shape[2]
        first = self._by_row(self._by_prompt(q) @ prompt_keys.transpose(2, 3), n_repeats)
        scores = capped(torch.cat([first, q @ keys.transpose(2, 3)], -1), variant.softcap).add_(bias)
        weights = attention_weights(scores, variant.sinks)
        shared, own = weights.split([prompt_keys.shape[2], keys.shape[2]], -1)
        return self._by_row(self._by_prompt(shared) @ prompt_values, n_repeats).add_(own @ values)

    def _by_prompt(self, x_N_K_R: Tensor) -> Tensor:
        """Regroup [N, K, R, ...] by prompt: [G, K, M * R, ...]."""
        grouped = x_N_K_R[self.members].unflatten(0, (self.n_prompts, -1))
        return grouped.transpose(1, 2).flatten(2, 3)

    def _by_row(self, x_G_K_MR: Tensor, n_repeats: int) -> Tensor:
        """Undo `_by_prompt`: return [N, K, R, ...]."""
        return x_G_K_MR.unflatten(2, (-1, n_repeats)).transpose(1, 2).flatten(0, 1)[self.member_of_row]

    def _bias(self, window: int | None, chunked: bool) -> Tensor:
        """Return the additive mask [N, 1, 1, S]: 0 where a row may attend, else -inf."""
        if (window, chunked) not in self._biases:
            seen = self._key_positions >= 0
            if window is not None:
                seen &= in_window(self._query_positions[:, None], self._key_positions, window, chunked)
            bias = torch.zeros(seen.shape, dtype=self.prompts[0].dtype, device=self.device)
            self._biases[window, chunked] = bias.masked_fill_(~seen, -torch.inf)[:, None, None]
        return self._biases[window, chunked]

    def columns(self, row: int, n_prompt: int, start: int, end: int) -> KeyValues:
        """Return a copy of the keys and values of a row's tokens [start, end); its prompt has n_prompt tokens."""
        prompt, own = int(self.prompt_of[row]), self.shape.own_columns
        reply = self.positions[row, self.shape.prompt_columns :]
        order = reply.argsort(stable=True)[int((reply < 0).sum()) :] + own
        later = order[max(0, start - n_prompt) : max(0, end - n_prompt)]
        found: KeyValues = []
        for shared, replies in zip(self.prompts, self.replies, strict=True):
            begun = replies[row] if own else shared[prompt]
            both = torch.cat([begun[:, start : min(end, n_prompt)], replies[row][:, later]], 1)
            found.append(both.transpose(0, 1).contiguous())
        return found


def _copy_slots(tensors: Sequence[Tensor], slots: tuple[Tensor, Tensor], width: int) -> None:
    """Copy the first `width` columns from the old slots to the new ones."""
    old, new = slots
    if len(old) and len(tensors[0]):
        for tensor in tensors:
            tensor[new, :, :width] = tensor[old, :, :width]


def bytes_per_token(model: LanguageModel, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values in all layers. On a CPU they are float32, whatever the dtype."""
    config = model.config
    # Gemma 4 has layers with heads of other sizes.
    layers = (
        config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config] * config.num_hidden_layers
    )
    itemsize = 4 if model.device.type == "cpu" else dtype.itemsize
    return sum(_n_numbers(layer) * itemsize for layer in layers)


def _n_numbers(config: Any) -> int:
    """Return how many numbers the keys and values of one token are in a layer.

    Models without attention keep a state of about the size of a few tokens, and count as if they kept each."""
    queries = getattr(config, "num_attention_heads", None)
    if not isinstance(queries, int) or not queries:
        return 2 * int(config.hidden_size)
    heads = getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "qk_head_dim", None) or getattr(config, "head_dim", None) or config.hidden_size // queries
    values = getattr(config, "v_head_dim", None) or size  # DeepSeek's are of another size
    return int(heads) * (int(size) + int(values))
