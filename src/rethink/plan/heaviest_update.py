"""The update of a batch that takes the most memory, reduced to what a GPU holds at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from rethink.objectives import Distill, Imitate, Part, PolicyGradient, Prefer, Update
from rethink.plan.memory import MemorySettings
from rethink.types import Sample


def heaviest_update(updates: Sequence[Update], settings: MemorySettings) -> Update | None:
    """Return the update with the longest row, reduced to two micro-batches of one GPU; None if nothing is trained on.

    If a GPU's share of an optimizer step is less than two micro-batches, reduce to that. Every sample is trained on.
    """
    longest = max(updates, key=_longest_row, default=None)
    if longest is None or not _longest_row(longest):
        return None
    parts = [part for part in longest.parts if any(map(attrgetter("n_trained"), part.samples))]
    limit = 2 * settings.micro_batch_tokens / max(1, len(parts))
    n_shares = longest.n_steps * settings.n_gpus
    return Update(longest.name, tuple(_longest_samples(part, limit, n_shares) for part in parts), on_policy=False)


def _longest_row(update: Update) -> int:
    longest = 0
    for part in update.parts:
        read = part.teacher_samples if isinstance(part, Distill) else ()
        longest = max(longest, *map(_length, (*part.samples, *read)), 0)
    return longest


def _length(sample: Sample) -> int:
    return len(sample.prompt_ids) + len(sample.ids)


def _longest_samples(part: Part, limit: float, n_shares: int) -> Part:
    """Return a part with its longest samples: at most an equal share of them, and about `limit` tokens."""
    if isinstance(part, Distill):
        return _longest_for_teacher(part, limit, n_shares)
    if isinstance(part, Prefer):
        pairs = sorted(zip(part.chosen, part.rejected, strict=True), key=lambda pair: -sum(map(_length, pair)))
        n_pairs = _n_within([_length(chosen) + _length(rejected) for chosen, rejected in pairs], limit, n_shares)
        chosen, rejected = zip(*pairs[:n_pairs], strict=True)
        return replace(part, chosen=chosen, rejected=rejected)
    samples = [replace(s, forced=()) for s in part.samples if s.n_trained]
    samples.sort(key=_length, reverse=True)
    seen: set[tuple[int, ...]] = set()
    sizes = []  # replies to one prompt share its forward pass
    for sample in samples:
        sizes.append(len(sample.ids) + (0 if sample.prompt_ids in seen else len(sample.prompt_ids)))
        seen.add(sample.prompt_ids)
    longest = tuple(samples[: _n_within(sizes, limit, n_shares)])
    ones = (1.0,) * len(longest)
    if isinstance(part, Imitate):
        return replace(part, samples=longest, weights=ones)
    assert isinstance(part, PolicyGradient)
    return replace(part, samples=longest, advantages=ones)


def _n_within(sizes: Sequence[int], limit: float, n_shares: int) -> int:
    """Return how many sizes to take: at least one, and as many as it takes to reach the limit."""
    most = -(-len(sizes) // n_shares)
    total = 0
    for n, size in enumerate(sizes[:most]):
        if total >= limit:
            return n
        total += size
    return most


def _longest_for_teacher(part: Distill, limit: float, n_shares: int) -> Distill:
    """Return the part with the samples whose prompts are the longest for the teacher."""
    lengths = [_length(read) if read.n_trained else 0 for read in part.teacher_samples]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return part.select(order[: _n_within([lengths[i] for i in order], limit, n_shares)])
