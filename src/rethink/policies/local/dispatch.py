"""Dispatch requests to decoder threads, and collect their replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import Protocol

from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Generation, Request
from rethink.threads import running

MIN_NUMBERS = 65_536
"""A thread needs at least this many rows times hidden size. With fewer, threads wait for each other in Python, and each
reads all weights for a few rows."""

Part = tuple[int, Request]
"""The index of a request, and the request with all or some of its members."""

Finished = tuple[Part, list[Generation]]


class AnyDecoder(Protocol):
    """A `Decoder`, or a `PlainDecoder`."""

    @property
    def is_done(self) -> bool: ...

    def step(self) -> list[tuple[int, list[Generation]]]:
        """Sample a token for every running row; return the requests that this completes."""
        ...

    def first_ids(self) -> list[int]:
        """Return the ids of the first reply, as far as it is sampled."""
        ...


OpenDecoder = Callable[[Sequence[Request], Prefiller], AnyDecoder]


def shard_requests(requests: Sequence[Request], order: Sequence[int], n: int, max_members: int) -> list[list[Part]]:
    """Return at most n shares of similar size, dealt in this order.

    No part has more than `max_members` members. A request is split further only if there are fewer requests than shares.
    """
    parts: list[Part] = []
    for i in order:
        whole = requests[i]
        n_parts = max(1, -(-whole.n // max_members), -(-n // len(requests)))
        for k in range(n_parts):
            start, end = whole.n * k // n_parts, whole.n * (k + 1) // n_parts
            if end > start:
                parts.append((i, replace(whole, n=end - start, first=whole.first + start)))
    return [parts[k::n] for k in range(min(n, len(parts)))]


class GroupCollector:
    """Collects the replies to requests that were split into parts."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self._found: dict[int, dict[int, Generation]] = {}

    def add(self, part: Part, replies: Sequence[Generation]) -> list[Generation] | None:
        """Add a part's replies; return all replies to its request, in order, if it is complete, else None."""
        i, request = part
        members = self._found.setdefault(i, {})
        members.update(enumerate(replies, request.first))
        if len(members) < self.requests[i].n:
            return None
        del self._found[i]
        return [members[index] for index in sorted(members)]


def dispatch(
    shares: Sequence[Sequence[Part]], open_decoder: OpenDecoder, prefiller: Prefiller, *, in_caller_thread: bool
) -> Iterator[Finished]:
    """Decode each share in a separate thread. Yield (part, replies) in the caller's thread as parts finish.

    With `in_caller_thread`, a single share is decoded in the caller's thread: on a CPU, torch's intra-op threads are slow
    under any other thread. Closing the iterator stops all threads at their next token. An error in one thread stops the
    others, too, and is raised.
    """
    if len(shares) == 1 and in_caller_thread:
        yield from _decode(shares[0], open_decoder, prefiller, Event())
        return
    done: SimpleQueue[Finished | None] = SimpleQueue()  # None: a thread has ended
    prefillers = [prefiller] if len(shares) == 1 else [Prefiller() for _ in shares]
    works = [partial(_decode_into_queue, share, open_decoder, prefillers[k], done) for k, share in enumerate(shares)]
    with running(works):
        n_running = len(works)
        while n_running:
            finished = done.get()
            if finished is None:
                n_running -= 1
            else:
                yield finished
    if len(shares) > 1:
        prefiller.count(prefillers)


def _decode_into_queue(
    share: Sequence[Part],
    open_decoder: OpenDecoder,
    prefiller: Prefiller,
    done: SimpleQueue[Finished | None],
    stop: Event,
) -> None:
    try:
        for finished in _decode(share, open_decoder, prefiller, stop):
            done.put(finished)
    finally:
        done.put(None)


def _decode(share: Sequence[Part], open_decoder: OpenDecoder, prefiller: Prefiller, stop: Event) -> Iterator[Finished]:
    decoder = open_decoder([request for _, request in share], prefiller)
    while not decoder.is_done and not stop.is_set():
        for k, replies in decoder.step():
            yield share[k], replies
