"""From samples to micro-batches: one flat sequence each, in which a prompt stands once, whatever the number of replies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rethink.models.forward import PackedAttention, PackedRow, Span
from rethink.objectives import Advantage
from rethink.types import Sample

BLOCK_RATIO = 0.5
"""Rows are padded together for attention while the shortest has at least this share of the longest one's tokens."""


@dataclass(frozen=True)
class Row:
    """A sample with its weight (advantage) and the factor that its tokens' losses get: 1 / denominator and the like.

    `old` are the log-probs [T] that ratios are taken to, where they are not the sampler's.
    """

    sample: Sample
    weight: Advantage = 0.0
    scale: float = 0.0
    old: tuple[float, ...] | None = None

    @cached_property
    def n_fed(self) -> int:
        """How many of the reply's tokens go through the model: those before the last one that is trained."""
        backwards = self.sample.mask[::-1]
        return len(backwards) - 1 - backwards.index(True) if any(backwards) else 0


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors. The axis `_F` is the flat sequence that goes through the model; `_T` runs over trained tokens only,
    row by row.

    `place_T` says which place in the flat sequence predicts the token `target_T`: several replies share the last place of
    their prompt.
    """

    rows: tuple[Row, ...]
    ids_F: Tensor
    positions_F: Tensor
    attend: PackedAttention
    place_T: Tensor
    target_T: Tensor
    sampler_T: Tensor
    old_T: Tensor
    weight_T: Tensor
    scale_T: Tensor
    temperature_T: Tensor
    forced_T: Tensor


def shares(groups: Sequence[list[int]], n_steps: int) -> list[list[int]]:
    """Whole groups of indices, in order, split into n_steps shares that differ by one group at most; one may be empty."""
    bounds = [len(groups) * k // n_steps for k in range(n_steps + 1)]
    return [[i for group in groups[a:b] for i in group] for a, b in pairwise(bounds)]


def by_group(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of the samples of each group, by the group's identity and never by position."""
    found: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        found.setdefault(sample.prompt.group, []).append(i)
    return list(found.values())


def pack(rows: Sequence[Row], max_tokens: int, n_shares: int = 1) -> list[list[Row]]:
    """Rows for micro-batches of at most `max_tokens` tokens (a longer row gets one of its own), those with one prompt
    together. Their number is, if there is enough to do, a multiple of `n_shares`, and their sizes are alike.

    Rows without a trained token are left out.
    """
    prompts: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        if row.sample.n_trained:
            prompts.setdefault(row.sample.prompt_ids, []).append(row)
    total = sum(len(prompt) + sum(row.n_fed for row in group) for prompt, group in prompts.items())
    # A tenth is left for what does not come out even, and for prompts that stand in two micro-batches.
    n_batches = max(1, math.ceil(total / (0.9 * max_tokens) / n_shares)) * n_shares
    batches: list[list[Row]] = []
    used = done = 0  # tokens of the last batch, and of all, each prompt counted once
    for prompt, group in prompts.items():
        new = len(prompt)  # what the prompt costs, until it is in the batch
        for row in group:
            size = new + row.n_fed
            if not batches or used + size > max_tokens or done + size / 2 > len(batches) * total / n_batches:
                batches.append([])
                used, new = 0, len(prompt)
            batches[-1].append(row)
            used, done, new = used + new + row.n_fed, done + size, 0
    return batches


def lay_out(rows: Sequence[Row], device: torch.device | str = "cpu") -> MicroBatch:
    """The rows' prompts, each once, and behind them their replies, the longest first."""
    assert all(row.sample.prompt_ids for row in rows), "the first token of a reply is predicted from its prompt"
    prompts = sorted(dict.fromkeys(row.sample.prompt_ids for row in rows), key=len, reverse=True)
    ordered = tuple(sorted(rows, key=lambda row: row.n_fed, reverse=True))
    starts = np.cumsum([0, *map(len, prompts), *(row.n_fed for row in ordered)])
    at = {ids: Span(int(start), len(ids)) for ids, start in zip(prompts, starts, strict=False)}
    places = [int(start) for start in starts[len(prompts) : -1]]
    packed_rows = [
        PackedRow((at[row.sample.prompt_ids], Span(start, row.n_fed)), row.n_fed)
        for row, start in zip(ordered, places, strict=True)
    ]
    asking = [PackedRow((span,), span.length) for span in at.values()]
    ends = [at[row.sample.prompt_ids].start + len(row.sample.prompt_ids) - 1 for row in ordered]
    columns = [torch.from_numpy(x).to(device) for x in _columns(ordered, ends, places)]
    place_T, target_T, sampler_T, old_T, weight_T, scale_T, temperature_T, forced_T = columns
    fed = [*prompts, *(row.sample.ids[: row.n_fed] for row in ordered)]
    before = [0] * len(prompts) + [len(row.sample.prompt_ids) for row in ordered]
    positions = np.arange(starts[-1]) + np.repeat(np.array(before) - starts[:-1], np.diff(starts))
    return MicroBatch(
        ordered,
        torch.from_numpy(_joined(fed, np.int64)).to(device),
        torch.from_numpy(positions).to(device),
        PackedAttention([*_blocks(asking), *_blocks([row for row in packed_rows if row.n_queries])], device),
        place_T,
        target_T,
        sampler_T,
        old_T,
        weight_T,
        scale_T,
        temperature_T,
        forced_T,
    )


def _blocks(packed_rows: Sequence[PackedRow]) -> list[list[PackedRow]]:
    """Rows, longest first, in blocks of like length."""
    blocks: list[list[PackedRow]] = []
    for span in packed_rows:
        if not blocks or span.n_queries < BLOCK_RATIO * blocks[-1][0].n_queries:
            blocks.append([])
        blocks[-1].append(span)
    return blocks


def _columns(rows: Sequence[Row], ends: Sequence[int], starts: Sequence[int]) -> tuple[NDArray[Any], ...]:
    """The columns of `MicroBatch` over the rows' trained tokens, from `place_T` on. In the flat sequence the rows'
    prompts end at `ends`, and their replies begin at `starts`."""
    samples = [row.sample for row in rows]
    lengths = np.array([len(s.ids) for s in samples])
    mask = _joined([s.mask for s in samples], np.bool_)
    forced = _joined([s.forced or (False,) * len(s.ids) for s in samples], np.bool_)
    sampler = _joined([s.log_probs for s in samples], np.float32)
    old = sampler
    if any(row.old is not None for row in rows):
        old = _joined([row.sample.log_probs if row.old is None else row.old for row in rows], np.float32)
    first = np.cumsum(lengths) - lengths
    places = np.arange(lengths.sum()) + np.repeat(np.array(starts) - 1 - first, lengths)
    places[first] = ends

    def same(values: Sequence[float]) -> NDArray[np.float32]:
        return np.repeat(np.array(values, dtype=np.float32), lengths)

    # What was forced has no log-prob of the sampler's: the trainer's own stands in, so that it corrects nothing.
    every = (
        *(places, _joined([s.ids for s in samples], np.int64), np.where(forced, old, sampler), old),
        *(_joined([_per_token(row) for row in rows], np.float32), same([row.scale for row in rows])),
        *(same([s.sampling.temperature for s in samples]), forced),
    )
    return tuple(column[mask] for column in every)


def _per_token(row: Row) -> tuple[float, ...]:
    return row.weight if isinstance(row.weight, tuple) else (row.weight,) * len(row.sample.ids)


def _joined(rows: Sequence[Sequence[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.fromiter(chain.from_iterable(rows), dtype, sum(map(len, rows)))
