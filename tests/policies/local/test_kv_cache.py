"""Decoding in a small cache: reused slots and columns do not change the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.models.forward import PackedAttention, PackedRow, Span
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local.decode import Decoder, cache_shape
from rethink.policies.local.kv_cache import MIN_SHARED_TOKENS, CacheShape
from rethink.policies.local.prefill import Prefiller, _Recorded
from rethink.policies.local.prefix_cache import Ids, KeyValues, PrefixCache
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling
from support.local_sampling import (
    CAP,
    LONG,
    SAMPLED,
    SHORT,
    SIZES,
    WINDOWS,
    decode_all,
    requests_of,
    tokens_for_groups,
    uninitialized_memory_is_nan,
    windowed_model,
    with_many_stop_ids,
)


@pytest.fixture(scope="module")
def shared_qwen(model_folders: dict[str, Path]) -> LanguageModel:
    return with_many_stop_ids(load_model(str(model_folders["qwen3"])))


def assert_same_replies(ours: Sequence[Sequence[Generation]], theirs: Sequence[Sequence[Generation]]) -> None:
    """Check for equal tokens, and log-probs within 1e-5: sums run in another order in another batch."""
    for a, b in zip(ours, theirs, strict=True):
        assert [(reply.ids, reply.stopped) for reply in a] == [(reply.ids, reply.stopped) for reply in b]
        for x, y in zip(a, b, strict=True):
            assert x.log_probs == pytest.approx(y.log_probs, abs=1e-5)


class Watch:
    """Checks before every step that the slots are consistent, and counts events."""

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
            # All tokens but the last have been processed, and each has one column.
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


@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
@pytest.mark.parametrize("n_groups", [1, 2])
def test_samples_do_not_depend_on_the_cache_size(
    any_model: LanguageModel, requests: list[Request], n_groups: int
) -> None:
    """Guards against leftovers in a slot, overwritten columns, and rows that are lost or doubled."""
    model = with_many_stop_ids(any_model)
    assert (max(len(r.ids) for r in requests) >= MIN_SHARED_TOKENS) == (requests is LONG)
    with watched() as ample:
        expected = decode_all(model, requests, 10**6)
    assert (ample.n_refills, ample.n_rounds) == (0, 0)
    assert ample.n_compactions > 0
    with watched() as watch:
        assert_same_replies(decode_all(model, requests, tokens_for_groups(requests, n_groups)), expected)
    assert watch.n_refills > 1
    assert watch.n_rounds >= 1
    assert watch.n_rows <= watch.shape.n_rows == n_groups * 5
    assert watch.shape.n_tokens <= tokens_for_groups(requests, n_groups)
    assert len({len(reply.ids) for replies in expected for reply in replies}) > 3


@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
@pytest.mark.parametrize(("kind", "changes"), WINDOWS)
def test_sliding_windows_in_a_small_cache(
    kind: str, changes: dict[str, Any], requests: list[Request], tmp_path: Path
) -> None:
    """Guards against a window that counts columns of the ring buffer instead of positions."""
    model = with_many_stop_ids(windowed_model(tmp_path, kind, changes))
    expected = decode_all(model, requests, 10**6)
    with watched() as watch:
        assert_same_replies(decode_all(model, requests, tokens_for_groups(requests, 2)), expected)
    assert watch.n_rounds >= 1


@pytest.mark.parametrize("n_groups", [1, 100])
@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
def test_uninitialized_memory_is_not_used(shared_qwen: LanguageModel, requests: list[Request], n_groups: int) -> None:
    """Guards against empty columns that hold NaN: their weight is 0, and 0 times NaN is NaN."""
    expected = decode_all(shared_qwen, requests, 10**6)
    with uninitialized_memory_is_nan():
        assert torch.zeros(2).new_empty(3, 5).isnan().all()
        again = decode_all(shared_qwen, requests, tokens_for_groups(requests, n_groups))
    assert_same_replies(again, expected)


@given(
    asked=st.lists(st.tuples(st.sampled_from([1, 2, 7, 31, 32, 33, 50]), st.integers(1, 6)), min_size=1, max_size=9),
    share=st.floats(0, 1),
    cap=st.sampled_from([1, 2, 3, 17]),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_random_requests_and_cache_sizes(
    shared_qwen: LanguageModel, asked: list[tuple[int, int]], share: float, cap: int
) -> None:
    """Guards against requests that wait forever, and slots that two rows share."""
    requests = requests_of([n for n, _ in asked], [m for _, m in asked])
    sampling = Sampling(max_tokens=cap)
    room = int(share * tokens_for_groups(requests, len(requests), cap))
    with watched():
        assert_same_replies(
            decode_all(shared_qwen, requests, room, sampling), decode_all(shared_qwen, requests, 10**6, sampling)
        )


def test_positions_stay_within_the_models(any_model: LanguageModel) -> None:
    """Guards against finished rows that keep counting: GPT-2 has no further position. All 128 are used."""
    model = with_many_stop_ids(any_model)
    requests = requests_of(len(SIZES) * [128 - CAP])
    with watched() as watch:
        decode_all(model, requests, tokens_for_groups(requests, 2))
    assert watch.n_rounds >= 1
    # The last token of a reply is not processed.
    assert watch.last_position < 128


def test_finished_requests_are_returned_at_once(shared_qwen: LanguageModel) -> None:
    """Guards against replies that are held back until all are finished."""
    finished: list[tuple[int, int]] = []
    decoder = Decoder(shared_qwen.weights(), shared_qwen.chat, SHORT, SAMPLED, Prefiller(), 10**6)
    n_steps = 0
    while not decoder.is_done:
        for _, replies in decoder.step():
            finished.append((n_steps, max(len(reply.ids) for reply in replies) - 1))
        n_steps += 1  # the first token of a reply takes no step of the cache
    assert [step for step, _ in finished] == [length for _, length in finished]
    assert len({step for step, _ in finished}) > 3


def computed(model: LanguageModel, ids: Ids) -> KeyValues:
    """Return keys and values of all ids from one forward pass."""
    n = len(ids)
    recorded = _Recorded(PackedAttention([[PackedRow((Span(0, n),), n)]]))
    with torch.no_grad():
        model.weights().hidden(torch.tensor(ids), torch.arange(n), recorded)
    return [tensor for layer in recorded.layers for tensor in layer]


@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
def test_stored_prefixes_equal_a_forward_pass(any_model: LanguageModel, requests: list[Request]) -> None:
    """Guards against columns in ring-buffer order, and those of another row."""
    model = with_many_stop_ids(any_model)
    prefixes = PrefixCache(10**9)
    with watched() as watch:
        groups = decode_all(model, requests, tokens_for_groups(requests, 2), prefixes=prefixes)
    assert watch.n_rounds > 0
    assert_same_replies(groups, decode_all(model, requests, 10**6))
    for request, replies in zip(requests, groups, strict=True):
        for reply in replies:
            ids = (*request.ids, *reply.ids[:-1])
            assert prefixes.n_cached(ids) == len(ids)
            found = [torch.cat(parts) for parts in zip(*prefixes.find(ids), strict=True)]
            for ours, theirs in zip(found, computed(model, ids), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@given(
    asked=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 9)), min_size=1, max_size=9),
    cap=st.integers(1, 60),
    cache_tokens=st.integers(0, 6000),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_cache_shape_fits_the_limit(asked: list[tuple[int, int]], cap: int, cache_tokens: int) -> None:
    """Guards against a cache over its limit, and one too small for the largest group."""
    requests = [Request((7,) * n, m, seed=0) for n, m in asked]
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
        # Five rows with 7 copied and 11 reply columns; two shared prompts of 32, and five rows with 11 reply columns.
        (CacheShape(5, 2, 7, 11), 5 * (7 + 11)),
        (CacheShape(5, 2, 31, 11), 5 * (31 + 11)),
        (CacheShape(5, 2, 32, 11), 2 * 32 + 5 * 11),
    ],
)
def test_tokens_of_a_cache_shape(shape: CacheShape, n_tokens: int) -> None:
    """Guards against copies of prompts that are not counted."""
    assert shape.n_tokens == n_tokens
