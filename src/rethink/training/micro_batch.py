"""From samples to micro-batches: one flat sequence each, in which a prompt stands once, whatever the number of replies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from rethink.models.forward import PackedAttention, PackedRow, Span, group_by_length
from rethink.objectives import Advantage
from rethink.types import Sample


@dataclass(frozen=True)
class TrainingSample:
    """A sample as its loss sees it.

    `advantage` (in imitation: the weight) is what the loss of its tokens is multiplied with, `scale` the same for all
    parts: coefficient / denominator. `old` are the log-probs [T] that ratios are taken to, where they are not the
    sampler's. `position` is the sample's place in whatever list it was taken from.
    """

    sample: Sample
    advantage: Advantage = 0.0
    scale: float = 0.0
    old: tuple[float, ...] | None = None
    position: int = 0

    @cached_property
    def n_fed(self) -> int:
        """How many of the reply's tokens go through the model: those before the last one that is trained."""
        backwards = self.sample.mask[::-1]
        return len(backwards) - 1 - backwards.index(True) if any(backwards) else 0


@dataclass(frozen=True)
class MicroBatch:
    """Samples as tensors. The axis `_F` is the flat sequence that goes through the model; `_T` runs over trained tokens
    only, sample by sample, the longest first.

    `samples` are those that it was made from, in their order; `order` says which of them each laid-out sample is, and
    `lengths` how many trained tokens it has. `place_T` says which place in the flat sequence predicts the token
    `target_T`: several replies share the last place of their prompt. `reference_T` are log-probs under the frozen start
    model, for losses that compare with it.
    """

    samples: tuple[TrainingSample, ...]
    order: tuple[int, ...]
    lengths: tuple[int, ...]
    ids_F: Tensor
    positions_F: Tensor
    attend: PackedAttention
    place_T: Tensor
    target_T: Tensor
    sampler_T: Tensor
    old_T: Tensor
    advantage_T: Tensor
    scale_T: Tensor
    temperature_T: Tensor
    forced_T: Tensor
    reference_T: Tensor | None = None

    def by_sample(self, values_T: Tensor) -> list[Tensor]:
        """Return each sample's values, in the order of `samples`; empty for one without trained tokens."""
        found = [values_T[:0]] * len(self.samples)
        for i, own_T in zip(self.order, values_T.split(self.lengths), strict=True):
            found[i] = own_T
        return found

    def means_by_sample(self, values_T: Tensor, counts_T: Tensor) -> Tensor:
        """Return [T] the mean of each sample's values where `counts_T` is True, there; 0 elsewhere."""
        values_T = values_T.where(counts_T, 0.0)
        means = []
        for own_T, own_counts_T in zip(values_T.split(self.lengths), counts_T.split(self.lengths), strict=True):
            mean = own_T.sum() / own_counts_T.sum().clamp(min=1)
            means.append(mean.expand_as(own_T))
        return torch.cat(means).where(counts_T, 0.0)


def pack(samples: Sequence[TrainingSample], max_tokens: int, n_shares: int = 1) -> list[list[TrainingSample]]:
    """Return samples for micro-batches of at most `max_tokens` tokens (a longer one gets its own), those with one prompt
    together. The number of micro-batches is, if there is enough to do, a multiple of `n_shares`, and their sizes are alike.

    Samples without a trained token are left out.
    """
    prompts: dict[tuple[int, ...], list[TrainingSample]] = {}
    total = 0
    for one in samples:
        if not one.sample.n_trained:
            continue
        if one.sample.prompt_ids not in prompts:
            prompts[one.sample.prompt_ids] = []
            total += len(one.sample.prompt_ids)
        prompts[one.sample.prompt_ids].append(one)
        total += one.n_fed
    # A tenth is left for what does not come out even, and for prompts that stand in two micro-batches.
    n_batches = max(1, math.ceil(total / (0.9 * max_tokens) / n_shares)) * n_shares
    batches: list[list[TrainingSample]] = []
    used = done = 0  # tokens of the last batch, and of all, each prompt counted once
    for prompt, group in prompts.items():
        new = len(prompt)  # what the prompt costs, until it is in the batch
        for one in group:
            size = new + one.n_fed
            if not batches or used + size > max_tokens or done + size / 2 > len(batches) * total / n_batches:
                batches.append([])
                used, new = 0, len(prompt)
            batches[-1].append(one)
            used, done, new = used + new + one.n_fed, done + size, 0
    return batches


def pack_pairs(samples: Sequence[TrainingSample], max_tokens: int, n_shares: int = 1) -> list[list[TrainingSample]]:
    """Return samples for micro-batches of at most `max_tokens` tokens. Each two that follow one another stay together."""
    batches: list[list[TrainingSample]] = []
    used = 0
    for i in range(0, len(samples), 2):
        pair = samples[i : i + 2]
        size = sum(len(one.sample.prompt_ids) + len(one.sample.ids) for one in pair)
        if not batches or used + size > max_tokens:
            batches.append([])
            used = 0
        batches[-1] += pair
        used += size
    return batches


def lay_out(samples: Sequence[TrainingSample], device: torch.device | str = "cpu") -> MicroBatch:
    """Return the samples' prompts, each once, and behind them their replies, the longest first.

    The prompts 5 6 and 5 9 4 with the replies 7 8 1 and 10 1 to the first, 11 12 13 to the second::

        ids_F        5 9 4 5 6 11 12 7 8 10
        positions_F  0 1 2 0 1  3  4 2 3  2
        place_T      2 5 6  4 7 8  4 9          where the token is predicted
        target_T    11 12 13  7 8 1  10 1       the last token of a reply is predicted, but never fed
    """
    trained: list[int] = []
    prompts: dict[tuple[int, ...], Span] = {}
    for i, one in enumerate(samples):
        assert one.sample.prompt_ids, "the first token of a reply is predicted from its prompt"
        if one.sample.n_trained:
            trained.append(i)
            prompts[one.sample.prompt_ids] = Span(0, 0)
    order = sorted(trained, key=lambda i: samples[i].n_fed, reverse=True)

    fed: list[Sequence[int]] = []
    spans: list[Span] = []
    first_positions: list[int] = []
    end = 0
    asking: list[PackedRow] = []
    for prompt_ids in sorted(prompts, key=len, reverse=True):
        prompt = Span(end, len(prompt_ids))
        end += prompt.length
        fed.append(prompt_ids)
        spans.append(prompt)
        first_positions.append(0)
        prompts[prompt_ids] = prompt
        asking.append(PackedRow((prompt,), prompt.length))
    replies: list[PackedRow] = []
    lengths: list[int] = []
    for i in order:
        sample, n_fed = samples[i].sample, samples[i].n_fed
        prompt, reply = prompts[sample.prompt_ids], Span(end, n_fed)
        end += n_fed
        fed.append(sample.ids[:n_fed])
        spans.append(reply)
        first_positions.append(prompt.length)
        replies.append(PackedRow((prompt, reply), n_fed))
        lengths.append(sample.n_trained)

    starts_N, widths_N = np.array(spans).T
    positions_F = np.arange(end) + np.repeat(np.array(first_positions) - starts_N, widths_N)
    columns = _columns([samples[i] for i in order], replies)
    return MicroBatch(
        samples=tuple(samples),
        order=tuple(order),
        lengths=tuple(lengths),
        ids_F=torch.from_numpy(_joined(fed, np.int64)).to(device),
        positions_F=torch.from_numpy(positions_F).to(device),
        attend=PackedAttention(group_by_length(asking) + group_by_length(replies), device),
        **{name: torch.from_numpy(column).to(device) for name, column in columns.items()},
    )


def _columns(samples: Sequence[TrainingSample], rows: Sequence[PackedRow]) -> dict[str, np.ndarray]:
    """Return the columns of `MicroBatch` over trained tokens, by name. `rows` say where prompt and reply stand."""
    prompt_ends: list[int] = []
    reply_starts: list[int] = []
    masks: list[Sequence[bool]] = []
    targets: list[Sequence[int]] = []
    sampled: list[Sequence[float]] = []
    old: list[Sequence[float]] = []
    forced: list[Sequence[bool]] = []
    advantages: list[Sequence[float]] = []
    scalars: list[tuple[float, float]] = []
    for one, row in zip(samples, rows, strict=True):
        sample, (prompt, reply) = one.sample, row.spans
        n = len(sample.ids)
        prompt_ends.append(prompt.start + prompt.length - 1)
        reply_starts.append(reply.start)
        masks.append(sample.mask)
        targets.append(sample.ids)
        sampled.append(sample.log_probs)
        old.append(sample.log_probs if one.old is None else one.old)
        forced.append(sample.forced or (False,) * n)
        advantages.append(one.advantage if isinstance(one.advantage, tuple) else (one.advantage,) * n)
        scalars.append((one.scale, sample.sampling.temperature))
    scale_N, temperature_N = np.array(scalars, np.float32).T
    lengths_N = np.array([len(ids) for ids in targets])
    first_N = np.cumsum(lengths_N) - lengths_N
    # A token is predicted from the place before its own, the first one from the last place of its prompt.
    place_T = np.arange(lengths_N.sum()) + np.repeat(np.array(reply_starts) - 1 - first_N, lengths_N)
    place_T[first_N] = prompt_ends
    old_T, forced_T = _joined(old, np.float32), _joined(forced, np.bool_)
    mask_T = _joined(masks, np.bool_)
    columns = {
        "place_T": place_T,
        "target_T": _joined(targets, np.int64),
        # What was forced has no log-prob of the sampler's: the trainer's own stands in, so that it corrects nothing.
        "sampler_T": np.where(forced_T, old_T, _joined(sampled, np.float32)),
        "old_T": old_T,
        "advantage_T": _joined(advantages, np.float32),
        "scale_T": np.repeat(scale_N, lengths_N),
        "temperature_T": np.repeat(temperature_N, lengths_N),
        "forced_T": forced_T,
    }
    return {name: column[mask_T] for name, column in columns.items()}


def _joined(rows: Iterable[Sequence[float]], dtype: type[np.generic]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype)
