"""Sampling with a model's own cache: replies do not depend on the batch, and follow caps, ends and seeds of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest
import torch

from rethink.models.forward.plain import PlainState, PlainWeights
from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy
from rethink.policies.local.plain_decode import PlainDecoder
from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling
from support.model_families import V, build_family

CAP = 9
SAMPLED = Sampling(temperature=0.8, max_tokens=CAP)
REQUESTS = [Request(tuple(range(2 + i, 2 + i + n)), m, seed=i) for i, (n, m) in enumerate([(3, 2), (11, 3), (5, 1)])]


@cache
def model(name: str) -> LanguageModel:
    found = build_family(name)
    assert found.plain
    # A ninth of the tokens end a reply, so replies differ in length.
    found.chat.stop_ids = frozenset(range(1, V, 9))
    return found


def decode(
    name: str, requests: Sequence[Request], cache_tokens: int, sampling: Sampling = SAMPLED
) -> list[list[Generation]]:
    """Return the replies to each request; check that each is reported once, and that the batches are of the right size."""
    weights = model(name).weights()
    assert isinstance(weights, PlainWeights)
    decoder = PlainDecoder(
        weights, model(name).chat, requests, sampling, Prefiller(), cache_tokens, pads_left=model(name).pads_left
    )
    for rows in decoder.waiting:
        lengths = [len(requests[row.i].ids) for row in rows]
        assert len(rows) == 1 or len(rows) * (max(lengths) + sampling.max_tokens) <= cache_tokens
        assert model(name).pads_left or len(set(lengths)) == 1
    finished: list[tuple[int, list[Generation]]] = []
    while not decoder.is_done:
        finished += decoder.step()
    assert Counter(i for i, _ in finished) == Counter(range(len(requests)))
    return [replies for _, replies in sorted(finished, key=lambda pair: pair[0])]


@pytest.mark.parametrize("name", ["LFM2", "MiniMax"])
def test_replies_do_not_depend_on_the_batch(name: str) -> None:
    """Guards against padding that reaches a state, random numbers of another member, and a cache of other rows.

    MiniMax's state sees padding, so only prompts of one length are decoded together."""
    together = decode(name, REQUESTS, 10_000)
    for cache_tokens in (1, 45):
        for ours, theirs in zip(decode(name, REQUESTS, cache_tokens), together, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert (a.ids, a.stopped) == (b.ids, b.stopped)
                assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    assert len({tuple(g.ids) for replies in together for g in replies}) > len(REQUESTS), "members differ"


@pytest.mark.parametrize("name", ["LFM2", "Bamba"])
def test_rows_leave_the_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a prompt that is read for each of its rows, ended rows that are computed to the end, and the state of
    another row after a move. A cache whose rows cannot be chosen gives the same replies."""
    assert model(name).pads_left  # and loaded, before steps are counted
    n_rows: list[int] = []
    step = PlainWeights.step

    def counted(weights: PlainWeights, ids_N: torch.Tensor, state: PlainState) -> torch.Tensor:
        n_rows.append(len(ids_N))
        return step(weights, ids_N, state)

    monkeypatch.setattr(PlainWeights, "step", counted)
    requests = [Request(r.ids, 6, r.seed) for r in REQUESTS]
    found = decode(name, requests, 10_000)
    lengths = [len(g.ids) for replies in found for g in replies]
    assert n_rows[0] == 18 > n_rows[-1]
    for t, n in enumerate(n_rows, 1):
        assert n < 2 * sum(length > t for length in lengths)
    monkeypatch.setattr(PlainState, "can_select", False)
    for ours, theirs in zip(decode(name, requests, 10_000), found, strict=True):
        assert [g.ids for g in ours] == [g.ids for g in theirs]


def test_members_can_be_sampled_apart() -> None:
    """Guards against seeds by place in the batch: a request may be split over threads."""
    whole = decode("LFM2", [REQUESTS[1]], 10_000)[0]
    parts = [Request(REQUESTS[1].ids, 1, REQUESTS[1].seed, first=g) for g in range(3)]
    assert [replies[0].ids for replies in decode("LFM2", parts, 10_000)] == [g.ids for g in whole]


def test_ends_and_caps() -> None:
    """Guards against tokens after an end, a reply that is cut one token early or late, and a wrong reason for its end."""
    requests = [Request(r.ids, 4, r.seed, max_tokens=cap) for r, cap in zip(REQUESTS, (CAP, 4, 1), strict=True)]
    stops = model("LFM2").chat.stop_ids
    ended = []
    for request, replies in zip(requests, decode("LFM2", requests, 10_000), strict=True):
        for reply in replies:
            assert len(reply.ids) == len(reply.log_probs) <= (request.max_tokens or CAP)
            assert not stops & set(reply.ids[:-1])
            assert reply.stopped == (reply.ids[-1] in stops)
            assert reply.stopped or len(reply.ids) == request.max_tokens
            ended.append(reply.stopped)
    assert set(ended) == {True, False}


def test_a_copy_of_the_weights_does_not_follow_the_parameters() -> None:
    """Guards against sampling from weights that the trainer is changing."""
    policy = LocalPolicy(build_family("LFM2"), SAMPLED)
    before = dict(policy.generate(REQUESTS, SAMPLED))
    with policy.frozen_weights(), torch.no_grad():
        for p in policy.model.module.parameters():
            p.mul_(-1.5)
        assert dict(policy.generate(REQUESTS, SAMPLED)) == before
    assert dict(policy.generate(REQUESTS, SAMPLED)) != before
