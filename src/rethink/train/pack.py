"""From samples to right-padded micro-batches: like lengths together, bounded in tokens, padding never trained.

Causal attention never looks to the right, so padding there needs no mask, and positions simply count up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rethink.types import Sample


@dataclass(frozen=True)
class Row:
    """A sample with its weight (advantage) and the factor that its tokens' losses get: 1 / denominator and the like.

    `old` are the log-probs [T] that ratios are taken to, where they are not the sampler's.
    """

    sample: Sample
    weight: float = 0.0
    scale: float = 0.0
    old: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors. The flat axis `_T` runs over trained tokens only, row by row.

    `row_T` and `column_T` say which hidden state predicts the token `target_T`.
    """

    rows: tuple[Row, ...]
    ids_N_T: Tensor
    row_T: Tensor
    column_T: Tensor
    target_T: Tensor
    sampler_T: Tensor
    old_T: Tensor
    weight_T: Tensor
    scale_T: Tensor
    temperature_T: Tensor
    forced_T: Tensor

    @property
    def positions_N_T(self) -> Tensor:
        return torch.arange(self.ids_N_T.shape[1], device=self.ids_N_T.device).expand_as(self.ids_N_T)


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


def pack(rows: Sequence[Row], max_tokens: int, device: torch.device | str = "cpu") -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` padded tokens (a longer row gets one of its own), shortest rows first.

    Rows without a trained token are left out.
    """
    trained = [r for r in rows if r.sample.n_trained]
    order = sorted(trained, key=_length)
    batches: list[list[Row]] = []
    for row in order:
        if not batches or (len(batches[-1]) + 1) * _length(row) > max_tokens:
            batches.append([])
        batches[-1].append(row)
    return [_tensors(tuple(batch), device) for batch in batches]


def _length(row: Row) -> int:
    return len(row.sample.prompt_ids) + len(row.sample.ids)


def _tensors(rows: tuple[Row, ...], device: torch.device | str) -> MicroBatch:
    ids_N_T = torch.zeros((len(rows), max(map(_length, rows))), dtype=torch.long)
    flat: list[tuple[float, ...]] = []
    for n, row in enumerate(rows):
        s, old = row.sample, row.old or row.sample.log_probs
        ids_N_T[n, : _length(row)] = torch.tensor((*s.prompt_ids, *s.ids))
        assert s.prompt_ids, "the first token of a reply is predicted from its prompt"
        before = len(s.prompt_ids) - 1
        forced = s.forced or (False,) * len(s.ids)
        # What was forced has no log-prob of the sampler's: the trainer's own stands in, so that it corrects nothing.
        sampler = [old[t] if forced[t] else s.log_probs[t] for t in range(len(s.ids))]
        flat += [
            (n, before + t, s.ids[t], forced[t], sampler[t], old[t], row.weight, row.scale, s.sampling.temperature)
            for t in range(len(s.ids))
            if s.mask[t]
        ]
    row_T, column_T, target_T, forced_T = torch.tensor([f[:4] for f in flat], dtype=torch.long).T
    numbers = torch.tensor([f[4:] for f in flat], dtype=torch.float32).T.contiguous()
    tensors = [x.to(device) for x in (ids_N_T, row_T, column_T, target_T, *numbers, forced_T.bool())]
    return MicroBatch(rows, *tensors)
