"""Requests dealt out to workers, and their replies put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from threading import Event

from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Hear, Reply, Request
from rethink.threads import running

MIN_NUMBERS = 65_536
"""A worker of its own pays from this many rows times hidden size on: with fewer, threads wait for each other in Python,
and each reads all weights for a few rows."""

Piece = tuple[int, Request]
"""The place of a request among all, and that request or some of its members."""

Done = SimpleQueue[tuple[Piece, list[Reply]] | None]
"""Pieces with their replies; None when a worker has ended."""

Decode = Callable[[Sequence[Request], Prefiller, Hear, Event], None]


def deal(requests: Sequence[Request], order: Sequence[int], n: int, room: int) -> list[list[Piece]]:
    """At most n shares of like size, dealt in this order. No piece has more than `room` members, and a request is split
    over several workers only if there are too few requests for all of them."""
    pieces: list[Piece] = []
    for i in order:
        parts = max(1, -(-requests[i].n // room), -(-n // len(requests)))
        bounds = [requests[i].n * k // parts for k in range(parts + 1)]
        pieces += [
            (i, replace(requests[i], n=b - a, first=requests[i].first + a)) for a, b in pairwise(bounds) if b > a
        ]
    return [share for k in range(n) if (share := pieces[k::n])]


class Joiner:
    """Tells of each request's replies, in order, as soon as all of them are there."""

    def __init__(self, requests: Sequence[Request], hear: Callable[[int, list[Reply]], None]) -> None:
        self.requests = requests
        self.hear = hear
        self._found: dict[int, dict[int, Reply]] = {}

    def add(self, piece: Piece, replies: Sequence[Reply]) -> None:
        """What came of a request, or of some of its members."""
        i, request = piece
        members = self._found.setdefault(i, {})
        members.update(enumerate(replies, request.first))
        if len(members) == self.requests[i].n:
            self.hear(i, [members[g] for g in sorted(self._found.pop(i))])

    def add_all(self, done: Done, n_workers: int) -> None:
        """All that comes, until the last worker has ended."""
        while n_workers:
            item = done.get()
            if item is None:
                n_workers -= 1
            else:
                self.add(*item)


def work(
    decode: Decode, shares: Sequence[Sequence[Piece]], prefiller: Prefiller, joiner: Joiner, *, here: bool
) -> None:
    """Decode each share in a thread of its own, and put together what is complete while they go on. With `here`, a single
    share is decoded in this thread: on a CPU torch's threads for one operation are slow under any other."""
    if len(shares) == 1 and here:
        _decode(decode, shares[0], prefiller, joiner.add, Event())
        return
    done: Done = SimpleQueue()
    prefillers = [prefiller] if len(shares) == 1 else [Prefiller() for _ in shares]
    with running([partial(_worker, decode, *both, done) for both in zip(shares, prefillers, strict=True)]):
        joiner.add_all(done, len(shares))
    if len(shares) > 1:
        prefiller.count(prefillers)


def _worker(decode: Decode, share: Sequence[Piece], prefiller: Prefiller, done: Done, stop: Event) -> None:
    try:
        _decode(decode, share, prefiller, lambda piece, replies: done.put((piece, replies)), stop)
    finally:
        done.put(None)


def _decode(
    decode: Decode,
    share: Sequence[Piece],
    prefiller: Prefiller,
    tell: Callable[[Piece, list[Reply]], None],
    stop: Event,
) -> None:
    decode([request for _, request in share], prefiller, lambda i, replies: tell(share[i], replies), stop)
