"""Pack samples into micro-batches: one flat sequence each, which contains each prompt once, however many replies it has."""

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
from rethink.models.forward.embedding import ImageSource, positions_of
from rethink.objectives import Advantage
from rethink.types import Sample


@dataclass(frozen=True)
class TrainingSample:
    """A sample with the factors of its loss.

    `advantage` (the weight, for imitation) multiplies the loss of its tokens; `scale` is the part's coefficient /
    denominator. `old` are the log-probs [T] that ratios are relative to, if not the sampler's. `position` is the sample's
    index in the list that it came from. `teacher_sample` has the same ids after the prompt of a teacher, if there is one.
    """

    sample: Sample
    advantage: Advantage = 0.0
    scale: float = 0.0
    old: tuple[float, ...] | None = None
    position: int = 0
    teacher_sample: Sample | None = None

    @cached_property
    def n_fed(self) -> int:
        """The number of reply tokens that go through the model: those before the last trained one."""
        backwards = self.sample.mask[::-1]
        return len(backwards) - 1 - backwards.index(True) if any(backwards) else 0


@dataclass(frozen=True)
class MicroBatch:
    """Samples as tensors. The axis `_F` is the flat sequence that goes through the model; `_T` runs over trained tokens
    only, sample by sample, the longest sample first.

    `samples` are the samples in their original order. The k-th sample of the layout is `samples[order[k]]`, with
    `lengths[k]` trained tokens. `target_T` are the trained tokens, `place_T` the indices in the flat sequence that predict
    them: the replies to a prompt share its last index. `sampler_T` are the sampler's log-probs, `old_T` those that ratios
    are relative to, `reference_T` those of the frozen start model, for losses that compare with it.
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
        """Return the values of each sample, in the order of `samples`; empty for a sample without trained tokens."""
        found = [values_T[:0]] * len(self.samples)
        for i, own_T in zip(self.order, values_T.split(self.lengths), strict=True):
            found[i] = own_T
        return found

    def sums_by_sample(self, values_T: Tensor, counts_T: Tensor) -> Tensor:
        """Return, for each token [T] where `counts_T` is True, the sum of its sample's values there; 0 elsewhere."""
        sums = []
        for own_T in values_T.where(counts_T, 0.0).split(self.lengths):
            sums.append(own_T.sum().expand_as(own_T))
        return torch.cat(sums).where(counts_T, 0.0)

    def means_by_sample(self, values_T: Tensor, counts_T: Tensor) -> Tensor:
        """Return, for each token [T] where `counts_T` is True, the mean of its sample's values there; 0 elsewhere."""
        n_T = self.sums_by_sample(counts_T.to(values_T.dtype), counts_T)
        return self.sums_by_sample(values_T, counts_T) / n_T.clamp(min=1)


def pack(
    samples: Sequence[TrainingSample], max_tokens: int, n_shares: int = 1, shares_prompts: bool = True
) -> list[list[TrainingSample]]:
    """Distribute samples over micro-batches of similar size, at most `max_tokens` tokens each; return the micro-batches.

    Samples of one prompt stay together where possible. A sample longer than `max_tokens` gets its own micro-batch. With
    enough samples, the number of micro-batches is a multiple of `n_shares`. Samples without trained tokens are left out.
    A prompt counts once in a micro-batch; unless the model `shares_prompts`, once for each sample.
    """
    prompts: dict[tuple[int, ...], list[TrainingSample]] = {}
    total = 0
    for item in samples:
        if not item.sample.n_trained:
            continue
        if item.sample.prompt_ids not in prompts:
            prompts[item.sample.prompt_ids] = []
        if not (shares_prompts and prompts[item.sample.prompt_ids]):
            total += len(item.sample.prompt_ids)
        prompts[item.sample.prompt_ids].append(item)
        total += item.n_fed
    # Leave a tenth for uneven sizes and for prompts that are in two micro-batches.
    n_batches = max(1, math.ceil(total / (0.9 * max_tokens) / n_shares)) * n_shares
    batches: list[list[TrainingSample]] = []
    used = done = 0  # tokens of the last batch, and of all batches with each prompt counted once
    for prompt, group in prompts.items():
        new = len(prompt)  # the cost of the prompt, until it is in the batch
        for item in group:
            size = new + item.n_fed
            if not batches or used + size > max_tokens or done + size / 2 > len(batches) * total / n_batches:
                batches.append([])
                used, new = 0, len(prompt)
            batches[-1].append(item)
            used, done = used + new + item.n_fed, done + size
            new = 0 if shares_prompts else len(prompt)
    return batches


def pack_pairs(
    samples: Sequence[TrainingSample], max_tokens: int, n_shares: int = 1, shares_prompts: bool = False
) -> list[list[TrainingSample]]:
    """Distribute pairs, samples 2 k and 2 k + 1, over micro-batches of at most `max_tokens` tokens; return these.

    Each sample counts with its prompt, whether the model shares prompts or not."""
    batches: list[list[TrainingSample]] = []
    used = 0
    for i in range(0, len(samples), 2):
        pair = samples[i : i + 2]
        size = sum(len(item.sample.prompt_ids) + len(item.sample.ids) for item in pair)
        if not batches or used + size > max_tokens:
            batches.append([])
            used = 0
        batches[-1] += pair
        used += size
    return batches


def lay_out(
    samples: Sequence[TrainingSample], device: torch.device | str = "cpu", image_vectors: ImageSource | None = None
) -> MicroBatch:
    """Return a micro-batch of the samples: first each prompt once, then the replies, the longest first. `image_vectors`
    are those of the model.

    Prompt 5 6 has the replies 7 8 1 and 10 1; prompt 5 9 4 has the reply 11 12 13::

        ids_F        5 9 4 5 6 11 12 7 8 10
        positions_F  0 1 2 0 1  3  4 2 3  2
        place_T      2 5 6  4 7 8  4 9          the index that predicts each trained token
        target_T    11 12 13  7 8 1  10 1       the last token of a reply is predicted, but not fed to the model
    """
    trained: list[int] = []
    prompts: dict[tuple[int, ...], Span] = {}
    for i, item in enumerate(samples):
        assert item.sample.prompt_ids, "the first token of a reply is predicted from its prompt"
        if item.sample.n_trained:
            trained.append(i)
            prompts[item.sample.prompt_ids] = Span(0, 0)
    order = sorted(trained, key=lambda i: samples[i].n_fed, reverse=True)

    fed: list[Sequence[int]] = []
    spans: list[Span] = []
    first_positions: list[int] = []
    placed: dict[tuple[int, ...], Sequence[int]] = {}
    after: dict[tuple[int, ...], int] = {}
    end = 0
    prompt_rows: list[PackedRow] = []
    for prompt_ids in sorted(prompts, key=len, reverse=True):
        prompt = Span(end, len(prompt_ids))
        end += prompt.length
        fed.append(prompt_ids)
        spans.append(prompt)
        first_positions.append(0)
        placed[prompt_ids], after[prompt_ids] = positions_of(prompt_ids, image_vectors)
        prompts[prompt_ids] = prompt
        prompt_rows.append(PackedRow((prompt,), prompt.length))
    reply_rows: list[PackedRow] = []
    lengths: list[int] = []
    for i in order:
        sample, n_fed = samples[i].sample, samples[i].n_fed
        prompt, reply = prompts[sample.prompt_ids], Span(end, n_fed)
        end += n_fed
        fed.append(sample.ids[:n_fed])
        spans.append(reply)
        first_positions.append(after[sample.prompt_ids])
        reply_rows.append(PackedRow((prompt, reply), n_fed))
        lengths.append(sample.n_trained)

    starts_N, widths_N = np.array(spans).T
    positions_F = np.arange(end) + np.repeat(np.array(first_positions) - starts_N, widths_N)
    for prompt_ids, prompt in prompts.items():
        if not isinstance(placed[prompt_ids], range):  # an image has other positions, even where it takes as many
            positions_F[prompt.start : prompt.start + prompt.length] = placed[prompt_ids]
    columns = _columns([samples[i] for i in order], reply_rows)
    return MicroBatch(
        samples=tuple(samples),
        order=tuple(order),
        lengths=tuple(lengths),
        ids_F=torch.from_numpy(_concatenate(fed, np.int64)).to(device),
        positions_F=torch.from_numpy(positions_F).to(device),
        attend=PackedAttention(group_by_length(prompt_rows) + group_by_length(reply_rows), device),
        **{name: torch.from_numpy(column).to(device) for name, column in columns.items()},
    )


def _columns(samples: Sequence[TrainingSample], rows: Sequence[PackedRow]) -> dict[str, np.ndarray]:
    """Return the tensors [T] of a `MicroBatch`, by name. `rows` are the places of each sample's prompt and reply."""
    prompt_ends: list[int] = []
    reply_starts: list[int] = []
    masks: list[Sequence[bool]] = []
    targets: list[Sequence[int]] = []
    sampled: list[Sequence[float]] = []
    old: list[Sequence[float]] = []
    forced: list[Sequence[bool]] = []
    advantages: list[Sequence[float]] = []
    scalars: list[tuple[float, float]] = []
    for item, row in zip(samples, rows, strict=True):
        sample, (prompt, reply) = item.sample, row.spans
        n = len(sample.ids)
        prompt_ends.append(prompt.start + prompt.length - 1)
        reply_starts.append(reply.start)
        masks.append(sample.mask)
        targets.append(sample.ids)
        sampled.append(sample.log_probs)
        old.append(sample.log_probs if item.old is None else item.old)
        forced.append(sample.forced or (False,) * n)
        advantages.append(item.advantage if isinstance(item.advantage, tuple) else (item.advantage,) * n)
        scalars.append((item.scale, sample.sampling.temperature))
    scale_N, temperature_N = np.array(scalars, np.float32).T
    lengths_N = np.array([len(ids) for ids in targets])
    first_N = np.cumsum(lengths_N) - lengths_N
    # A token is predicted from the place before it, and the first one from the last place of its prompt.
    place_T = np.arange(lengths_N.sum()) + np.repeat(np.array(reply_starts) - 1 - first_N, lengths_N)
    place_T[first_N] = prompt_ends
    old_T, forced_T = _concatenate(old, np.float32), _concatenate(forced, np.bool_)
    mask_T = _concatenate(masks, np.bool_)
    columns = {
        "place_T": place_T,
        "target_T": _concatenate(targets, np.int64),
        # Forced tokens have no sampler log-prob. The trainer's own makes their importance ratio 1.
        "sampler_T": np.where(forced_T, old_T, _concatenate(sampled, np.float32)),
        "old_T": old_T,
        "advantage_T": _concatenate(advantages, np.float32),
        "scale_T": np.repeat(scale_N, lengths_N),
        "temperature_T": np.repeat(temperature_N, lengths_N),
        "forced_T": forced_T,
    }
    return {name: column[mask_T] for name, column in columns.items()}


def _concatenate(rows: Iterable[Sequence[float]], dtype: type[np.generic]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype)
