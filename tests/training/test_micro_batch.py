"""Micro-batches by hand and by properties: layout, attention and packing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.training.micro_batch import TrainingSample, lay_out, pack
from support.samples import make_sample

NOTHING_TRAINED = (make_sample(()), make_sample((8, 9), mask=(False, False)))


def test_layout_by_hand() -> None:
    """Guards against shifted targets, repeated prompts, masked tokens in the loss, and values of another sample.

    Prompts come first, the longest first, then replies without their last token; 12 is masked."""
    apart = make_sample(
        (11, 12, 13), prompt_ids=(5, 9, 4), mask=(True, False, True), log_probs=(-0.25, -8.0, -0.5), temperature=0.5
    )
    long = make_sample((7, 8, 1), prompt_ids=(5, 6), log_probs=(-1.5, -2.0, -2.5))
    short = make_sample((10, 1), prompt_ids=(5, 6), log_probs=(-3.0, -3.5))
    one = TrainingSample(short, advantage=4.0, scale=0.25)
    two = TrainingSample(apart, advantage=(-3.0, 9.0, -5.0), scale=0.125, old=(-0.75, -9.0, -1.0))
    three = TrainingSample(long, advantage=2.0, scale=0.5)
    micro = lay_out([one, two, TrainingSample(NOTHING_TRAINED[0]), three])
    assert (micro.order, micro.lengths) == ((1, 3, 0), (2, 3, 2))
    assert micro.ids_F.tolist() == [5, 9, 4, 5, 6, 11, 12, 7, 8, 10]
    assert micro.positions_F.tolist() == [0, 1, 2, 0, 1, 3, 4, 2, 3, 2]
    assert micro.place_T.tolist() == [2, 6, 4, 7, 8, 4, 9]
    assert micro.target_T.tolist() == [11, 13, 7, 8, 1, 10, 1]
    assert micro.sampler_T.tolist() == [-0.25, -0.5, -1.5, -2.0, -2.5, -3.0, -3.5]
    assert micro.old_T.tolist() == [-0.75, -1.0, -1.5, -2.0, -2.5, -3.0, -3.5]
    assert micro.advantage_T.tolist() == [-3.0, -5.0, 2.0, 2.0, 2.0, 4.0, 4.0]
    assert micro.scale_T.tolist() == [0.125, 0.125, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert micro.temperature_T.tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    by_sample = [x.tolist() for x in micro.by_sample(micro.target_T)]
    assert by_sample == [[10, 1], [11, 13], [], [7, 8, 1]]


def test_only_the_needed_tokens_are_fed() -> None:
    """Guards against feeding what comes after the last trained token, an empty row in attention, and no prompt at all."""
    (sample, whole) = (make_sample((7, 8, 9, 10), mask=mask) for mask in ((True, True, False, False), (False,) * 4))
    micro = lay_out([TrainingSample(sample)])
    assert (micro.ids_F.tolist(), micro.place_T.tolist()) == ([2, 31, 3, 7], [2, 3])
    assert [TrainingSample(s).n_fed for s in (sample, whole, make_sample((7,)))] == [1, 0, 0]
    assert lay_out([TrainingSample(make_sample((1,)))]).ids_F.tolist() == [2, 31, 3]
    with pytest.raises(AssertionError, match="predicted from its prompt"):
        lay_out([TrainingSample(make_sample((7, 1), prompt_ids=()))])


def rows_of_lengths(n_fed: list[int], n_prompts: int = 1, prompt: int = 1) -> list[TrainingSample]:
    """Return samples with so many tokens to feed, of prompts in turn; advantages tell equal ones apart."""
    prompts = [(2, *(40 + p for _ in range(prompt - 1))) for p in range(n_prompts)]
    return [
        TrainingSample(make_sample((8,) * (n + 1), prompt_ids=prompts[i % n_prompts]), advantage=float(i))
        for i, n in enumerate(n_fed)
    ]


def n_tokens(rows: Sequence[TrainingSample]) -> int:
    """Return the cost of a micro-batch: each prompt once, and the replies."""
    return len(lay_out(rows).ids_F)


def test_micro_batches_by_hand() -> None:
    """Guards against a budget that counts a prompt for each of its replies, or padding.

    21 tokens: a prompt of 5 with replies of 4, 6 and 2, another of 3 with 1. A tenth of the room is left."""
    first, second = (5, 6, 7, 8, 9), (5, 6, 4)
    lengths = ((first, 5), (first, 7), (second, 2), (first, 3))
    rows = [TrainingSample(make_sample((8,) * n, prompt_ids=ids)) for ids, n in lengths]
    found = {n: [[len(r.sample.ids) for r in batch] for batch in pack(rows, n)] for n in (24, 17, 12, 1)}
    assert found == {24: [[5, 7, 3, 2]], 17: [[5], [7, 3, 2]], 12: [[5], [7], [3, 2]], 1: [[5], [7], [3], [2]]}


rows_to_pack = st.builds(
    rows_of_lengths, st.lists(st.integers(0, 23), min_size=1, max_size=31), st.integers(1, 5), st.integers(1, 11)
)


@given(rows_to_pack, st.integers(1, 101), st.integers(1, 5), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_row_is_packed_once_and_within_the_budget(
    rows: list[TrainingSample], max_tokens: int, n_shares: int, shares_prompts: bool
) -> None:
    """Guards against lost or repeated samples, and micro-batches over the limit, also of models that compute a prompt for
    each of its replies."""
    nothing = [TrainingSample(s) for s in NOTHING_TRAINED]
    batches = pack([nothing[0], *rows, nothing[1]], max_tokens, n_shares, shares_prompts)
    assert sorted(row.advantage for batch in batches for row in batch) == sorted(row.advantage for row in rows)
    for batch in batches:
        apart = sum(n_tokens([row]) for row in batch)
        assert len(batch) == 1 or (n_tokens(batch) if shares_prompts else apart) <= max_tokens


@pytest.mark.parametrize("n_shares", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [150, 400, 100_000])
def test_workers_get_equal_shares(n_shares: int, max_tokens: int) -> None:
    """Guards against idle workers: 60 replies to 6 prompts make a multiple of the number of workers, of similar sizes."""
    rows = rows_of_lengths([7 + i % 5 for i in range(60)], n_prompts=6, prompt=10)
    batches = pack(rows, max_tokens, n_shares)
    assert len(batches) % n_shares == 0
    sizes = [n_tokens(batch) for batch in batches]
    assert max(sizes) <= min(max_tokens, 4 / 3 * sum(sizes) / len(sizes))
    assert [len(batch) for batch in pack(rows_of_lengths([5, 5]), 100, n_shares=3)] == [1, 1], "fewer than workers"
