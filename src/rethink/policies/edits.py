"""Edits of a sample's tokens that need no model: what `Policy.splice`, `extend`, `cut` and `reprompt` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rethink.types import Prompt, Sample, Sampling, StopReason

NAN = float("nan")


def without_end(sample: Sample) -> tuple[int, ...]:
    """Return the sample's ids without its end token."""
    return sample.ids[:-1] if sample.stop == "stop" else sample.ids


def n_sampled(sample: Sample) -> int:
    """Return how many of the sample's tokens a policy has sampled, without the end token."""
    n = len(without_end(sample))
    return n - sum(sample.forced[:n])


def append_forced(sample: Sample, added: Sequence[int], text: str, stop: StopReason) -> Sample:
    """Return the sample with these ids in place of its end token, marked as forced, and not graded."""
    n = len(without_end(sample))
    forced = sample.forced[:n] or (False,) * n
    return replace(
        sample,
        ids=(*sample.ids[:n], *added),
        mask=sample.mask[:n] + (True,) * len(added),
        forced=forced + (True,) * len(added),
        log_probs=sample.log_probs[:n] + (NAN,) * len(added),
        text=text,
        stop=stop,
        verdict=None,
        reward=None,
        terms=(),
    )


def append_sampled(
    sample: Sample, ids: Sequence[int], log_probs: Sequence[float], text: str, stop: StopReason, version: int
) -> Sample:
    """Return a sample without end token with more sampled ids. Its version is the older one of the two."""
    return replace(
        sample,
        ids=(*sample.ids, *ids),
        mask=sample.mask + (True,) * len(ids),
        forced=sample.forced + (False,) * len(ids),
        log_probs=(*sample.log_probs, *log_probs),
        text=text,
        stop=stop,
        version=min(sample.version, version),
    )


def cut_to(sample: Sample, n_chars: int, decode: Callable[[int], str]) -> Sample:
    """Return the sample with as many ids as its first `n_chars` characters hold; `decode(n)` is the text of the first n.

    Ids that hold a part of a character, or whose text the next ids change, are left out."""
    low, high = 0, len(without_end(sample))
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(middle)) <= n_chars:
            low = middle
        else:
            high = middle - 1
    while low and not sample.text[:n_chars].startswith(decode(low)):
        low -= 1
    return replace(
        sample,
        ids=sample.ids[:low],
        mask=sample.mask[:low],
        forced=sample.forced[:low],
        log_probs=sample.log_probs[:low],
        text=decode(low),
        stop="length",
        verdict=None,
        reward=None,
        terms=(),
    )


def as_reply_to(sample: Sample, prompt: Prompt, prompt_ids: tuple[int, ...], version: int) -> Sample:
    """Return the sample as a reply to another prompt, after which no policy has sampled it: all its tokens are forced."""
    n = len(sample.ids)
    return replace(
        sample, prompt=prompt, prompt_ids=prompt_ids, forced=(True,) * n, log_probs=(NAN,) * n, version=version
    )


def common_sampling(samples: Sequence[Sample], sampling: Sampling | None) -> Sampling:
    """Return how to continue samples: with `sampling`, by default with their own.

    Raise ValueError if that changes more than `max_tokens`: a sample has one distribution."""
    how = sampling or samples[0].sampling
    for sample in samples:
        if replace(sample.sampling, max_tokens=how.max_tokens) != how:
            raise ValueError(
                f"sample {sample.index} of {sample.prompt.group} was drawn with {sample.sampling} and cannot be continued "
                f"with {how}: only max_tokens may differ"
            )
    return how
