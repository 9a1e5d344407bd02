"""Micro-batches by hand and by properties: layout, attention and packing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.training.micro_batch import TrainingSample, lay_out, pack
from support.samples import make_sample

NOTHING_TRAINED = (make_sample(()), make_sample((8, 9), mask=(False, False)))


def test_layout_by_hand() -> None:
    """Guards against shifted targets, repeated prompts, masked tokens in the loss, and values of another sample.

    Two replies to the prompt 5 6 and one to 5 9 4. The longer prompt comes first, at places 0 to 2, the other at 3 and 4;
    then the replies without their last token, the longest first: 11 12 (of 13) at 5 and 6, 7 8 (of 1) at 7 and 8, 10 (of 1)
    at 9. The first token of a reply is predicted from the last place of its prompt: 2, 4 and 4. 12 is masked.
    """
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
    assert {x.dtype for x in (micro.ids_F, micro.positions_F, micro.place_T, micro.target_T)} == {torch.long}
    numbers = (micro.sampler_T, micro.old_T, micro.advantage_T, micro.scale_T, micro.temperature_T)
    assert {x.dtype for x in numbers} == {torch.float32}
    by_sample = [x.tolist() for x in micro.by_sample(micro.target_T)]
    assert by_sample == [[10, 1], [11, 13], [], [7, 8, 1]]


def test_attention_of_the_layout() -> None:
    """Guards against replies that see one another, another's prompt, or later tokens.

    Each place of the layout above has a distinct value, and attention with equal scores returns the mean of what is
    seen."""
    prompt, other = (5, 6), (5, 9, 4)
    samples = [
        make_sample(ids, prompt_ids=p) for ids, p in (((10, 1), prompt), ((11, 12, 13), other), ((7, 8, 1), prompt))
    ]
    micro = lay_out([TrainingSample(s) for s in samples])
    n = len(micro.ids_F)
    zeros, marks = torch.zeros(n, 1, n), torch.eye(n)[:, None]
    out = micro.attend(0, zeros, zeros, marks, scale=1.0, window=None)[:, 0]
    seen = [row.nonzero()[:, 0].tolist() for row in out]
    assert seen == [
        *([0], [0, 1], [0, 1, 2], [3], [3, 4]),
        *([0, 1, 2, 5], [0, 1, 2, 5, 6]),
        *([3, 4, 7], [3, 4, 7, 8]),
        [3, 4, 9],
    ]


def test_forced_tokens_by_hand() -> None:
    """Guards against flags shifted by masked tokens, and NaN as the sampler's log-prob of forced tokens: the trainer's own
    replaces it, and only there."""
    nan = float("nan")
    spliced = make_sample(
        (7, 8, 9, 1),
        mask=(True, False, True, True),
        log_probs=(-0.5, -8.0, nan, nan),
        forced=(False, False, True, True),
    )
    plain = make_sample((7, 1), prompt_ids=(5, 6), log_probs=(-1.5, -2.0))
    micro = lay_out([TrainingSample(plain, old=(-1.0, -3.0)), TrainingSample(spliced, old=(-0.75, -9.0, -1.0, -2.5))])
    assert micro.target_T.tolist() == [7, 9, 1, 7, 1]
    assert micro.forced_T.tolist() == [False, True, True, False, False]
    assert micro.sampler_T.tolist() == [-0.5, -1.0, -2.5, -1.5, -2.0]
    assert micro.old_T.tolist() == [-0.75, -1.0, -2.5, -1.0, -3.0]


def test_only_the_needed_tokens_are_fed() -> None:
    """Guards against feeding what comes after the last trained token, an empty row in attention, and no prompt at all."""
    (sample, whole) = (make_sample((7, 8, 9, 10), mask=mask) for mask in ((True, True, False, False), (False,) * 4))
    micro = lay_out([TrainingSample(sample)])
    assert (micro.ids_F.tolist(), micro.place_T.tolist()) == ([2, 31, 3, 7], [2, 3])
    assert [TrainingSample(s).n_fed for s in (sample, whole, make_sample((7,)))] == [1, 0, 0]
    micro = lay_out([TrainingSample(make_sample((1,))), TrainingSample(make_sample((7, 1)))])
    assert micro.ids_F.tolist() == [2, 31, 3, 7]
    assert (micro.place_T.tolist(), micro.target_T.tolist()) == ([2, 3, 2], [7, 1, 1])
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

    A prompt of 5 with replies of 4, 6 and 2, another of 3 with 1: 5 + 12 + 3 + 1 = 21 tokens. A tenth of the room is
    left, so 24 is enough for one micro-batch, and with 17 there are two, of about 10.5: the first reply ends at 9,
    the middle of the second is at 12. With 12 there are two as well, but 2 more than 5 + 6 are over it. With 1: alone.
    """
    first, second = (5, 6, 7, 8, 9), (5, 6, 4)
    lengths = ((first, 5), (first, 7), (second, 2), (first, 3))
    rows = [TrainingSample(make_sample((8,) * n, prompt_ids=ids)) for ids, n in lengths]
    found = {n: [[len(r.sample.ids) for r in batch] for batch in pack(rows, n)] for n in (24, 17, 12, 1)}
    assert found == {24: [[5, 7, 3, 2]], 17: [[5], [7, 3, 2]], 12: [[5], [7], [3, 2]], 1: [[5], [7], [3], [2]]}


def test_rows_of_one_prompt_stay_together() -> None:
    """Guards against prompts in every micro-batch: 8 prompts of 20 tokens with 4 replies of 5, 320 tokens in all.

    Three micro-batches repeat at most two prompts: where one ends and the next begins.
    """
    rows = rows_of_lengths([5] * 32, n_prompts=8, prompt=20)
    batches = pack(rows, max_tokens=130)
    assert len(batches) == 3
    assert sum(len({row.sample.prompt_ids for row in batch}) for batch in batches) <= 8 + 2
    assert sum(map(n_tokens, batches)) <= 320 + 2 * 20


rows_to_pack = st.builds(
    rows_of_lengths, st.lists(st.integers(0, 23), min_size=1, max_size=31), st.integers(1, 5), st.integers(1, 11)
)


@given(rows_to_pack, st.integers(1, 101), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_every_row_is_packed_once_and_within_the_budget(
    rows: list[TrainingSample], max_tokens: int, n_shares: int
) -> None:
    """Guards against lost or repeated samples, and micro-batches over the limit; those without trained tokens are left
    out."""
    nothing = [TrainingSample(s) for s in NOTHING_TRAINED]
    batches = pack([nothing[0], *rows, nothing[1]], max_tokens, n_shares)
    assert sorted(row.advantage for batch in batches for row in batch) == sorted(row.advantage for row in rows)
    assert all(len(batch) == 1 or n_tokens(batch) <= max_tokens for batch in batches)


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
