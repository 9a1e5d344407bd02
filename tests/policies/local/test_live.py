"""Requests that come and go in one decoder: their replies are those of a policy that samples them alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.policies.local import live
from rethink.policies.local.live import Ended, Failed, LiveDecoder, NewToken, live_shape
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefix_cache import PrefixCache
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling
from support.local_sampling import CAP, SHORT, decode_all, requests_of, with_many_stop_ids

SAMPLINGS = [
    Sampling(0.0, CAP),
    Sampling(1.0, CAP),
    Sampling(0.7, 9, top_p=0.8),
    Sampling(1.3, CAP, top_k=5),
    Sampling(1.0, 1),
]
LONG = requests_of([32, 41, 37, 2, 47, 33, 43, 5, 45, 32, 39, 43])

Replies = dict[tuple[int, int], Generation]


def alone(model: LanguageModel, request: Request, sampling: Sampling) -> list[Generation]:
    """Return the replies to a request from a decoder of its own."""
    [replies] = decode_all(model, [request], 10_000, sampling)
    return replies


def open_decoder(model: LanguageModel, n_rows: int, prompt_tokens: int, prefixes: bool = False) -> LiveDecoder:
    prefiller = Prefiller()
    prefiller.prefixes = PrefixCache(10**7) if prefixes else None
    shape = live_shape(prompt_tokens, CAP, n_rows, 10**6)
    assert shape.n_rows == n_rows
    return LiveDecoder(model.weights(), model.chat, shape, prefiller)


def run_staggered(decoder: LiveDecoder, requests: Sequence[Request], seed: int) -> tuple[Replies, dict[int, int]]:
    """Add the requests at random times; return the replies by (request, index), and the request of each number."""
    rng = random.Random(seed)
    left = list(range(len(requests)))
    place: dict[int, int] = {}
    tokens: dict[tuple[int, int], list[int]] = {}
    found: Replies = {}
    while left or not decoder.is_done:
        while left and (decoder.is_done or rng.random() < 0.3):
            i = left.pop(0)
            number = decoder.add(requests[i], SAMPLINGS[i % len(SAMPLINGS)], watch=i % 2 == 0)
            place[number] = i
        decoder.step()
        for event in decoder.take_events():
            assert not isinstance(event, Failed)
            key = place[event.request], event.index
            if isinstance(event, NewToken):
                tokens.setdefault(key, []).append(event.token)
            else:
                assert key not in found
                found[key] = event.reply
    for key, ids in tokens.items():
        assert ids == found[key].ids
    assert {i for i, _ in tokens} == set(range(0, len(requests), 2))
    return found, place


@pytest.mark.parametrize(("requests", "prompt_tokens"), [(SHORT, 31), (LONG, 50)])
def test_replies_do_not_depend_on_other_requests(
    any_model: LanguageModel, requests: list[Request], prompt_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against rows that see another row's columns, sampling settings or random numbers when requests come at any
    time, share rows, and old columns are dropped; and against tokens that are reported twice, or not. With prefixes that
    are reused, and without."""
    monkeypatch.setattr(live, "MOVE_EVERY", 5)
    model = with_many_stop_ids(any_model)
    expected = [alone(model, request, SAMPLINGS[i % len(SAMPLINGS)]) for i, request in enumerate(requests)]
    for prefixes in (False, True):
        decoder = open_decoder(model, 7, prompt_tokens, prefixes)
        for seed in range(3):
            found, _ = run_staggered(decoder, requests, seed)
            for i, replies in enumerate(expected):
                for g, reply in enumerate(replies):
                    ours = found[i, g]
                    assert (ours.ids, ours.stopped) == (reply.ids, reply.stopped)
                    assert ours.log_probs == pytest.approx(reply.log_probs, abs=1e-5)


def test_old_columns_are_dropped(qwen: LanguageModel) -> None:
    """Guards against steps that read every column that a long-running server has ever written. With a new row every 3
    steps and replies of 23 tokens, the last 23 columns are in use."""
    qwen.chat.stop_ids = frozenset()
    shape = live_shape(40, 401, 16, 10**6)
    decoder = LiveDecoder(qwen.weights(), qwen.chat, shape, Prefiller())
    n_open: list[int] = []
    for step in range(250):
        if step % 3 == 0:
            decoder.add(Request((5, 6, 7), 1, seed=step), Sampling(max_tokens=CAP))
        decoder.step()
        assert decoder.cache is not None
        n_open.append(decoder.cache.n_open)
    assert max(n_open) <= 32 + live.MOVE_EVERY
    assert isinstance(decoder.cache, live.LiveCache)
    assert decoder.cache.prompt_width == 16


def test_a_cancelled_request_stops_and_makes_room(qwen: LanguageModel) -> None:
    """Guards against rows that decode for a client that has left, and against replies of others that change by it."""
    qwen.chat.stop_ids = frozenset()
    decoder = open_decoder(qwen, 4, 40)
    sampling = Sampling(max_tokens=CAP)
    kept, gone, later = (Request((9, 8, 7 + k), 2, seed=k) for k in range(3))
    decoder.add(kept, sampling)
    number = decoder.add(gone, sampling)
    waiting = decoder.add(gone, sampling)
    for _ in range(5):
        decoder.step()
    assert decoder.n_running == 4
    decoder.cancel(waiting)
    decoder.cancel(number)
    decoder.cancel(number)
    assert (decoder.n_running, len(decoder.waiting)) == (2, 0)
    third = decoder.add(later, sampling)
    found: Replies = {}
    while not decoder.is_done:
        decoder.step()
        for event in decoder.take_events():
            assert isinstance(event, Ended)
            found[event.request, event.index] = event.reply
    expected = [*alone(qwen, kept, sampling), *alone(qwen, later, sampling)]
    assert [reply.ids for _, reply in sorted(found.items())] == [reply.ids for reply in expected]
    assert set(found) == {(0, 0), (0, 1), (third, 0), (third, 1)}
    assert sorted(decoder._free) == list(range(4))


def test_a_cancelled_decoder_starts_from_an_empty_cache(qwen: LanguageModel) -> None:
    """Guards against a crash or stale columns after every running request was cancelled."""
    qwen.chat.stop_ids = frozenset()
    decoder = open_decoder(qwen, 3, 40)
    request, sampling = Request((9, 8, 7), 3, seed=5), Sampling(max_tokens=CAP)
    for _ in range(3):
        number = decoder.add(request, sampling)
        for _ in range(4):
            decoder.step()
        decoder.cancel(number)
        assert decoder.is_done
    decoder.add(request, sampling)
    while not decoder.is_done:
        decoder.step()
    replies = [event.reply.ids for event in decoder.take_events() if isinstance(event, Ended)]
    assert sorted(replies) == sorted(reply.ids for reply in alone(qwen, request, sampling))


def test_a_prefill_is_bounded(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against one forward pass over the prompts of all waiting requests; one longer than the limit still runs."""
    monkeypatch.setattr(live, "PREFILL_TOKENS", 50)
    decoder = open_decoder(qwen, 9, 60)
    for seed, n in enumerate([20, 20, 20, 60, 1]):
        decoder.add(Request(tuple(range(2, 2 + n)), 1, seed), Sampling(max_tokens=CAP))
    admitted: list[int] = []
    while decoder.waiting:
        before = len(decoder.waiting)
        decoder.step()
        admitted.append(before - len(decoder.waiting))
    assert [n for n in admitted if n] == [2, 1, 1, 1]


def test_shapes_follow_the_cache() -> None:
    """Guards against a cache larger than its limit: 100 prompt tokens and 49 columns are 149 tokens a row."""
    assert live_shape(100, 50, 64, 1490).n_rows == 10
    assert live_shape(100, 50, 6, 1490).n_rows == 6
    assert live_shape(100, 50, 64, 1).n_rows == 1
    assert torch.tensor([live_shape(8, 50, 64, 10**6).n_tokens]).item() == 64 * (8 + 49)
