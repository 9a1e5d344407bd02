"""Decoding with little room: slots that are used again, columns in a circle, and the same samples all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.local.test_policy import with_many_ends
from policies.local.test_prefix_cache import uninitialized_memory_is_nan
from rethink.models.forward import PackedAttention, PackedRow, Span
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local.cache import MIN_SHARED_TOKENS, CacheShape
from rethink.policies.local.decode import Decoder, cache_shape
from rethink.policies.local.graphs import Graphs
from rethink.policies.local.prefill import Prefiller, _Recorded
from rethink.policies.local.prefix_cache import Ids, KeyValues, PrefixCache
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling
from support import random_models
from support.samples import some_ids

CAP = 23
SAMPLED, GREEDY = Sampling(max_tokens=CAP), Sampling(temperature=0.0, max_tokens=CAP)
SIZES = 2 * (3, 1, 5, 2, 5, 4, 1, 3, 2, 5, 1, 4)


def requests_of(lengths: Sequence[int], sizes: Sequence[int] = SIZES) -> list[Request]:
    """Prompts of these lengths, each with its number of replies and a seed of its own."""
    return [Request(some_ids(n, "r", i), m, seed=i) for i, (n, m) in enumerate(zip(lengths, sizes, strict=True))]


SHORT = requests_of(2 * [7, 2, 13, 1, 29, 3, 11, 5, 2, 17, 31, 3])
LONG = requests_of(2 * [32, 41, 37, 2, 61, 33, 47, 5, 53, 32, 59, 43])


@pytest.fixture(scope="module")
def shared_qwen(model_folders: dict[str, Path]) -> LanguageModel:
    return with_many_ends(load_model(str(model_folders["qwen3"])))


def decoded(
    model: LanguageModel,
    requests: Sequence[Request],
    cache_tokens: int,
    sampling: Sampling = SAMPLED,
    prefixes: PrefixCache | None = None,
    graphs: Graphs | None = None,
) -> list[list[Generation]]:
    """The replies to each request, of which the sampler must tell once."""
    told: list[tuple[int, list[Generation]]] = []
    prefiller = Prefiller()
    prefiller.prefixes = prefixes
    decoder = Decoder(model.weights(), model.chat, requests, sampling, prefiller, cache_tokens, graphs)
    while not decoder.is_done:
        told += decoder.step()
    assert Counter(i for i, _ in told) == Counter(range(len(requests)))
    return [replies for _, replies in sorted(told, key=lambda pair: pair[0])]


def assert_same_replies(ours: Sequence[Sequence[Generation]], theirs: Sequence[Sequence[Generation]]) -> None:
    """Same tokens; log-probs within 1e-5, since sums run in another order in a batch of another shape."""
    for a, b in zip(ours, theirs, strict=True):
        assert [(reply.ids, reply.stopped) for reply in a] == [(reply.ids, reply.stopped) for reply in b]
        for x, y in zip(a, b, strict=True):
            assert x.log_probs == pytest.approx(y.log_probs, abs=1e-5)


class Watch:
    """Looks at every step whether the slots are in order, and counts what happened."""

    def __init__(self) -> None:
        self.n_refills = self.n_compactions = self.n_rounds = self.n_rows = self.last_position = 0
        self.shape = CacheShape(0, 0, 0, 0)

    def before_step(self, batch: Decoder) -> None:
        cache = batch.cache
        assert cache is not None
        self.shape = batch.shape
        rows = batch.running_N[: batch.n_rows].nonzero()[:, 0].tolist()
        assert len(rows) == batch.n_running == int(batch.running_N.sum()) <= batch.shape.n_rows
        members = batch.member_N[rows].tolist()
        assert len({*members}) == len(members), "a member must have one row"
        used = [i for i in batch.prompt_slots if i >= 0]
        assert len({*used}) == len(used) <= batch.shape.n_prompts
        for row, member in zip(rows, members, strict=True):
            i = batch.request_of[member]
            drawn, prompt = int(batch.length_M[member]), batch.requests[i].ids
            assert batch.prompt_slots[int(cache.prompt_of[row])] == i
            # All but the last token that was drawn have gone through the model, and each stands in one column.
            seen = cache.positions[row]
            assert seen[seen >= 0].sort().values.tolist() == list(range(len(prompt) + drawn - 1))
        # Of rows that have ended as well.
        self.last_position = max(self.last_position, int(batch.position_N[: batch.n_rows].max()) + 1)
        self.n_rows = max(self.n_rows, len(rows))
        self.n_rounds = max(self.n_rounds, cache.n_steps // batch.shape.reply_columns)


@contextmanager
def watched() -> Iterator[Watch]:
    watch = Watch()
    step, start_rows, compact = Decoder._step, Decoder._start_rows, Decoder._compact

    def watched_step(batch: Decoder) -> None:
        watch.before_step(batch)
        step(batch)

    def watched_start(batch: Decoder, *rest: Any) -> None:
        watch.n_refills += bool(batch.running_N.any())
        start_rows(batch, *rest)

    def watched_compact(batch: Decoder) -> None:
        watch.n_compactions += 1
        compact(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "_step", watched_step)
        patch.setattr(Decoder, "_start_rows", watched_start)
        patch.setattr(Decoder, "_compact", watched_compact)
        yield watch


def little(requests: Sequence[Request], n_groups: int, cap: int = CAP) -> int:
    """Tokens enough for so many of the largest group, with twice as many prompts."""
    longest, most = max(len(r.ids) for r in requests), max(r.n for r in requests)
    return CacheShape(n_groups * most, 2 * n_groups, longest, max(1, cap - 1)).n_tokens


@pytest.mark.parametrize("sampling", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_samples_do_not_depend_on_the_room(
    any_model: LanguageModel, requests: list[Request], n_groups: int, sampling: Sampling
) -> None:
    """Guards against a slot that still shows what was in it before, columns that are written over while they are needed,
    and rows that are lost or told twice."""
    model = with_many_ends(any_model)
    assert (max(len(r.ids) for r in requests) >= MIN_SHARED_TOKENS) == (requests is LONG)
    with watched() as ample:
        expected = decoded(model, requests, 10**6, sampling)
    assert (ample.n_refills, ample.n_rounds) == (0, 0)
    assert ample.n_compactions > 0
    with watched() as watch:
        assert_same_replies(decoded(model, requests, little(requests, n_groups), sampling), expected)
    # What this is about must have happened: rows were seated beside others, and the columns went round.
    assert watch.n_refills > 1
    assert watch.n_rounds >= 1 or sampling is GREEDY
    assert watch.n_rows <= watch.shape.n_rows == n_groups * 5
    assert watch.shape.n_tokens <= little(requests, n_groups)
    assert len({len(reply.ids) for replies in expected for reply in replies}) > 3


@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 5}),
        ("qwen3", {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}),
    ],
)
def test_windows_with_little_room(
    kind: str, changes: dict[str, Any], requests: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a window that counts columns instead of positions, once these are in a circle."""
    monkeypatch.setitem(random_models.SHAPES, "mistral", {"num_key_value_heads": 2})
    windowed = {**changes, "use_sliding_window": True}
    model = with_many_ends(load_model(str(random_models.save_random_model(tmp_path, kind, **windowed))))
    expected = decoded(model, requests, 10**6)
    with watched() as watch:
        assert_same_replies(decoded(model, requests, little(requests, 2)), expected)
    assert watch.n_rounds >= 1


@pytest.mark.parametrize("n_groups", [1, 2, 100])
@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
def test_memory_that_was_not_written_does_not_count(
    shared_qwen: LanguageModel, requests: list[Request], n_groups: int
) -> None:
    """Guards against columns that attention weighs with 0 and that hold NaN by chance: 0 times NaN is NaN."""
    expected = decoded(shared_qwen, requests, 10**6)
    with uninitialized_memory_is_nan():
        assert torch.zeros(2).new_empty(3, 5).isnan().all()
        again = decoded(shared_qwen, requests, little(requests, n_groups))
    assert_same_replies(again, expected)


@given(
    asked=st.lists(st.tuples(st.sampled_from([1, 2, 7, 31, 32, 33, 50]), st.integers(1, 6)), min_size=1, max_size=9),
    share=st.floats(0, 1),
    cap=st.sampled_from([1, 2, 3, 17]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_requests_with_any_room(
    shared_qwen: LanguageModel, asked: list[tuple[int, int]], share: float, cap: int
) -> None:
    """Guards against requests that wait for ever, and slots that are given to two, in an order nobody thought of."""
    requests = requests_of([n for n, _ in asked], [m for _, m in asked])
    sampling = Sampling(max_tokens=cap)
    room = int(share * little(requests, len(requests), cap))
    with watched():
        assert_same_replies(
            decoded(shared_qwen, requests, room, sampling), decoded(shared_qwen, requests, 10**6, sampling)
        )


@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_positions_end_where_the_model_does(any_model: LanguageModel, n_groups: int) -> None:
    """Guards against rows that have ended and go on counting while others run: GPT-2 has no position behind its last. All
    prompts leave just the 23 of 128 positions that their replies may take."""
    model = with_many_ends(any_model)
    requests = requests_of(len(SIZES) * [128 - CAP])
    with watched() as watch:
        decoded(model, requests, little(requests, n_groups))
    assert watch.n_rounds >= 1
    # The last token of a reply goes through no model.
    assert watch.last_position < 128


def test_requests_are_told_of_while_others_run(shared_qwen: LanguageModel) -> None:
    """Guards against replies that are held back until all are there: grading goes on meanwhile."""
    told: list[tuple[int, int]] = []
    decoder = Decoder(shared_qwen.weights(), shared_qwen.chat, SHORT, SAMPLED, Prefiller(), 10**6)
    n_steps = 0
    while not decoder.is_done:
        for _, replies in decoder.step():
            told.append((n_steps, max(len(reply.ids) for reply in replies) - 1))
        n_steps += 1  # the first token of a reply takes no step of the cache
    assert [step for step, _ in told] == [length for _, length in told]
    assert len({step for step, _ in told}) > 3


# What is kept of rows.


def computed(model: LanguageModel, ids: Ids) -> KeyValues:
    """Keys and values of all ids, by one forward pass over them."""
    n = len(ids)
    recorded = _Recorded(PackedAttention([[PackedRow((Span(0, n),), n)]]))
    with torch.no_grad():
        model.weights().hidden(torch.tensor(ids), torch.arange(n), recorded)
    return [tensor for layer in recorded.layers for tensor in layer]


@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
@pytest.mark.parametrize("n_groups", [1, 2, 100])
def test_what_is_kept_is_what_a_forward_pass_gives(
    any_model: LanguageModel, requests: list[Request], n_groups: int
) -> None:
    """Guards against columns that are kept in the order of the circle and not of the text, or of another row."""
    model = with_many_ends(any_model)
    prefixes = PrefixCache(10**9)
    with watched() as watch:
        groups = decoded(model, requests, little(requests, n_groups), prefixes=prefixes)
    assert (watch.n_rounds > 0) == (n_groups < 100)
    assert_same_replies(groups, decoded(model, requests, 10**6))
    for request, replies in zip(requests, groups, strict=True):
        for reply in replies:
            ids = (*request.ids, *reply.ids[:-1])
            assert prefixes.n_cached(ids) == len(ids)
            found = [torch.cat(parts) for parts in zip(*prefixes.find(ids), strict=True)]
            for ours, theirs in zip(found, computed(model, ids), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


# How much room there is.


@given(
    asked=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 9)), min_size=1, max_size=9),
    cap=st.integers(1, 60),
    cache_tokens=st.integers(0, 6000),
)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_a_cache_keeps_its_limit(asked: list[tuple[int, int]], cap: int, cache_tokens: int) -> None:
    """Guards against a cache that is larger than was allowed, though one prompt's replies would fit, and against one
    smaller than the largest group: its request would wait for ever."""
    requests = requests_of([n for n, _ in asked], [m for _, m in asked])
    longest, most = max(n for n, _ in asked), max(m for _, m in asked)
    shape = cache_shape(requests, cap, cache_tokens)
    assert (shape.prompt_columns, shape.reply_columns) == (longest, max(1, cap - 1))
    assert shape.n_rows >= most
    assert shape.n_prompts >= 1
    if CacheShape(most, 1, longest, shape.reply_columns).n_tokens <= cache_tokens:
        assert shape.n_tokens <= cache_tokens
    if CacheShape(sum(m for _, m in asked), len(asked), longest, shape.reply_columns).n_tokens <= cache_tokens:
        assert (shape.n_rows, shape.n_prompts) == (sum(m for _, m in asked), len(asked))


@pytest.mark.parametrize(
    ("shape", "n_tokens"),
    [
        # Five rows with a copy of 7 and 11 of their own; two prompts of 32 and five rows with 11 of their own.
        (CacheShape(5, 2, 7, 11), 5 * (7 + 11)),
        (CacheShape(5, 2, 31, 11), 5 * (31 + 11)),
        (CacheShape(5, 2, 32, 11), 2 * 32 + 5 * 11),
    ],
)
def test_room_is_counted_as_by_hand(shape: CacheShape, n_tokens: int) -> None:
    """Guards against copies of prompts that do not count."""
    assert shape.n_tokens == n_tokens
