"""Micro-batches, shares and denominators, by hand and by properties."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.objectives import Imitate, Part, PolicyGradient, Prefer, split_into_steps
from rethink.training.losses import loss_of
from rethink.training.losses.clip import missing_old_log_probs, with_old_log_probs
from rethink.training.micro_batch import TrainingSample, lay_out, pack
from rethink.types import Sample
from support.samples import factors, make_sample, reply_of

NOTHING_TRAINED = (make_sample(()), make_sample((8, 9), mask=(False, False)))


def test_layout_by_hand() -> None:
    """Guards against shifted targets, prompts that stand twice, forced tokens in the loss, and values of one row given to
    another.

    Two replies to the prompt 5 6 and one to 5 9 4. The longer prompt comes first, at places 0 to 2, the other at 3 and 4;
    then the replies without their last token, the longest first: 11 12 (of 13) at 5 and 6, 7 8 (of 1) at 7 and 8, 10 (of 1)
    at 9. The first token of a reply is predicted from the last place of its prompt: 2, 4 and 4. 12 was forced.
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


def test_who_sees_whom() -> None:
    """Guards against replies that see one another, another's prompt, or what comes later: each place of the layout above is
    marked by a value of its own, and attention with equal scores gives the mean of what is seen."""
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
    """Guards against flags that are shifted against their tokens by masked ones, and NaN as the sampler's log-prob of what
    it never drew: the trainer's own stands in, and only there."""
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


def test_what_comes_after_the_last_trained_token_is_not_computed() -> None:
    """Guards against tokens that go through the model for nothing: 9 and what was forced behind it."""
    (sample, whole) = (make_sample((7, 8, 9, 10), mask=mask) for mask in ((True, True, False, False), (False,) * 4))
    micro = lay_out([TrainingSample(sample)])
    assert micro.ids_F.tolist() == [2, 31, 3, 7]
    assert micro.place_T.tolist() == [2, 3]
    assert [TrainingSample(s).n_fed for s in (sample, whole, make_sample((7,)))] == [1, 0, 0]


def test_a_reply_of_one_token_needs_its_prompt_only() -> None:
    """Guards against an empty row in attention; the other reply has its place behind the prompt."""
    micro = lay_out([TrainingSample(make_sample((1,))), TrainingSample(make_sample((7, 1)))])
    assert micro.ids_F.tolist() == [2, 31, 3, 7]
    assert micro.place_T.tolist() == [2, 3, 2]
    assert micro.target_T.tolist() == [7, 1, 1]
    assert lay_out([TrainingSample(make_sample((1,)))]).ids_F.tolist() == [2, 31, 3]


def test_rows_without_trained_tokens_are_left_out() -> None:
    """Guards against a crash on an empty reply, and against forward passes that train nothing."""
    assert pack([TrainingSample(s) for s in NOTHING_TRAINED], max_tokens=100) == []
    (rows,) = pack(
        [TrainingSample(NOTHING_TRAINED[0]), TrainingSample(reply_of(2)), TrainingSample(NOTHING_TRAINED[1])],
        max_tokens=100,
    )
    assert [row.sample for row in rows] == [reply_of(2)]


def rows_of_lengths(n_fed: list[int], n_prompts: int = 1, prompt: int = 1) -> list[TrainingSample]:
    """Rows with so many tokens to feed, to prompts in turn; equal rows are told apart by their weight."""
    prompts = [(2, *(40 + p for _ in range(prompt - 1))) for p in range(n_prompts)]
    return [
        TrainingSample(make_sample((8,) * (n + 1), prompt_ids=prompts[i % n_prompts]), advantage=float(i))
        for i, n in enumerate(n_fed)
    ]


def n_tokens(rows: Sequence[TrainingSample]) -> int:
    """What a micro-batch costs: each prompt once, and the replies."""
    return len(lay_out(rows).ids_F)


def test_micro_batches_by_hand() -> None:
    """Guards against a budget that counts a prompt for each of its replies, or padding.

    A prompt of 5 with replies of 4, 6 and 2, another of 3 with 1: 5 + 12 + 3 + 1 = 21 tokens. A tenth of the room is
    left, so that 24 is enough for one micro-batch, and with 17 there are two, of about 10.5: the first reply ends at 9,
    the middle of the second is at 12. With 12 there are two as well, but 2 more than 5 + 6 are over it. With 1: alone.
    """
    first, second = (5, 6, 7, 8, 9), (5, 6, 4)
    lengths = ((first, 5), (first, 7), (second, 2), (first, 3))
    rows = [TrainingSample(make_sample((8,) * n, prompt_ids=ids)) for ids, n in lengths]
    found = {n: [[len(r.sample.ids) for r in batch] for batch in pack(rows, n)] for n in (24, 17, 12, 1)}
    assert found == {24: [[5, 7, 3, 2]], 17: [[5], [7, 3, 2]], 12: [[5], [7], [3, 2]], 1: [[5], [7], [3], [2]]}


def test_rows_of_one_prompt_stay_together() -> None:
    """Guards against prompts that are computed in every micro-batch: rows come in turns, 8 prompts of 20 tokens with 4
    replies of 5 each. Of 320 tokens, three micro-batches hold two prompts twice at most: where one ends and
    the next begins.
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
    """Guards against lost or doubled rows, and against batches that outgrow memory."""
    batches = pack(rows, max_tokens, n_shares)
    assert sorted(row.advantage for batch in batches for row in batch) == sorted(row.advantage for row in rows)
    assert all(len(batch) == 1 or n_tokens(batch) <= max_tokens for batch in batches)


@pytest.mark.parametrize("n_shares", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [150, 400, 100_000])
def test_shares_of_all_workers_are_alike(n_shares: int, max_tokens: int) -> None:
    """Guards against a worker that waits for another: 60 replies to 6 prompts make a multiple of the number of workers, and
    no micro-batch is more than a third larger than the mean."""
    rows = rows_of_lengths([7 + i % 5 for i in range(60)], n_prompts=6, prompt=10)
    batches = pack(rows, max_tokens, n_shares)
    assert len(batches) % n_shares == 0
    sizes = [n_tokens(batch) for batch in batches]
    assert max(sizes) <= min(max_tokens, 4 / 3 * sum(sizes) / len(sizes))


def test_less_than_a_row_for_each_worker() -> None:
    """Guards against empty micro-batches where there are more workers than rows."""
    assert [len(batch) for batch in pack(rows_of_lengths([5, 5]), 100, n_shares=3)] == [1, 1]


def of_groups(groups: str) -> Imitate:
    """Samples of these groups, each with its place as its weight."""
    samples = tuple(make_sample((7, 1), group=g) for g in groups)
    return Imitate(samples, tuple(float(i) for i in range(len(samples))))


def weights_of_steps(groups: str, n_steps: int) -> list[tuple[float, ...]]:
    return [factors(share) for share in split_into_steps(of_groups(groups), n_steps) if isinstance(share, Imitate)]


def test_shares_by_hand() -> None:
    """Guards against split groups and against a remainder that lands in one share: 7 groups as 2 + 2 + 3."""
    assert weights_of_steps("aabccdefffg", 3) == [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9, 10)]
    assert sorted(map(len, weights_of_steps("abc", 4))) == [0, 1, 1, 1]
    assert weights_of_steps("", 2) == [(), ()]


@given(st.integers(0, 29), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_shares_keep_order_and_differ_by_one_group_at_most(n_groups: int, n_steps: int) -> None:
    """Guards against groups that are dropped, repeated or moved by rounding."""
    found = weights_of_steps(string.ascii_letters[:n_groups], n_steps)
    assert len(found) == n_steps
    assert [g for share in found for g in share] == list(range(n_groups))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def training_samples(part: Part) -> list[TrainingSample]:
    """What goes through the model for a part."""
    return loss_of(part).samples(part)


def interleaved() -> tuple[Sample, ...]:
    """Seven samples of three groups, in the order a b a c b a c."""
    return tuple(make_sample((20 + i, 1), group=g) for i, g in enumerate("abacbac"))


@pytest.mark.parametrize("part", [PolicyGradient, Imitate])
def test_split_keeps_groups_whole_and_weights_with_their_samples(part: type[PolicyGradient] | type[Imitate]) -> None:
    """Guards against weights that stay in place while samples move; 3 groups in 2 steps are 1 + 2."""
    whole = part(interleaved(), tuple(map(float, range(7))), coefficient=5.0)
    one, two = split_into_steps(whole, 2)
    assert isinstance(one, part)
    assert isinstance(two, part)
    assert factors(one) == (0.0, 2.0, 5.0)
    assert factors(two) == (1.0, 4.0, 3.0, 6.0)
    for piece in (one, two):
        assert piece.coefficient == 5.0
        assert piece.samples == tuple(whole.samples[int(w)] for w in factors(piece))


def test_split_keeps_pairs_together() -> None:
    """Guards against pairs torn apart: the rejected go where their chosen go."""
    chosen = interleaved()
    rejected = tuple(make_sample((50 + i, 1), group="other") for i in range(7))
    one, two = split_into_steps(Prefer(chosen, rejected, beta=0.5), 2)
    assert isinstance(one, Prefer)
    assert isinstance(two, Prefer)
    assert [s.ids[0] for s in one.chosen] == [20, 22, 25]
    assert [s.ids[0] for s in one.rejected] == [50, 52, 55]
    assert [s.ids[0] for s in two.chosen] == [21, 24, 23, 26]
    assert [s.ids[0] for s in two.rejected] == [51, 54, 53, 56]
    assert one.beta == two.beta == 0.5


def test_an_empty_part_splits_into_empty_parts() -> None:
    """Guards against a crash on a part without samples, which is a legal zero loss."""
    assert split_into_steps(PolicyGradient((), ()), 3) == [PolicyGradient((), ())] * 3
    assert split_into_steps(Prefer((), ()), 2) == [Prefer((), ())] * 2
    assert training_samples(PolicyGradient((), ())) == training_samples(Prefer((), ())) == []
    assert training_samples(Imitate((), ())) == []


@pytest.mark.parametrize(
    ("mean", "scales"),
    [
        # Samples of 2, 3 (of 5) and 7 trained tokens, and two without any. Coefficient 6.
        ("token", [6 / 12, 6 / 12, 6 / 12]),  # 2 + 3 + 7 = 12 tokens
        ("sequence", [6 / (3 * 2), 6 / (3 * 3), 6 / (3 * 7)]),  # 3 samples that have any
        ("constant", [6 / (3 * 11)] * 3),  # the same, times the length 11
    ],
)
def test_scales_by_hand(mean: Literal["token", "sequence", "constant"], scales: list[float]) -> None:
    """Guards against denominators that count forced tokens or rows without trained ones."""
    holes = reply_of(5, mask=(True, False, True, False, True))
    samples = (reply_of(2), NOTHING_TRAINED[0], holes, NOTHING_TRAINED[1], reply_of(7))
    part = PolicyGradient(
        samples, (1.0, 2.0, 3.0, 4.0, 5.0), loss_aggregation=mean, constant_length=11, coefficient=6.0
    )
    found = training_samples(part)
    assert [row.advantage for row in found] == [1.0, 3.0, 5.0]
    assert [row.scale for row in found] == pytest.approx(scales, rel=1e-15)


def test_weight_zero_stays_in_the_denominator_without_a_row() -> None:
    """Guards against silent groups that leave the mean (2 of 2 + 7 tokens), and against paying for them."""
    samples = (reply_of(2), reply_of(7))
    (row,) = training_samples(PolicyGradient(samples, (1.0, 0.0)))
    assert (row.sample, row.scale) == (samples[0], 1 / 9)
    assert [r.sample for r in training_samples(PolicyGradient(samples, (1.0, 0.0), kl_coef=0.1))] == list(samples)


def test_recomputed_log_probs_go_to_their_own_sample() -> None:
    """Guards against a mix-up where a sample stands twice in a part, or steps move it: they are told apart by place."""
    twin, other = reply_of(2, group="a"), reply_of(2, group="b")
    recomputed = ((-1.0, -1.5), (-2.0, -2.5), (-3.0, -3.5), None)
    part = PolicyGradient((twin, other, twin, other), (1.0, -1.0, 2.0, -2.0), old_log_probs=recomputed)
    found = [[(one.advantage, one.old) for one in training_samples(share)] for share in split_into_steps(part, 2)]
    assert found == [
        [(1.0, recomputed[0]), (2.0, recomputed[2])],
        [(-1.0, recomputed[1]), (-2.0, None)],
    ]


def test_old_log_probs_by_hand() -> None:
    """Guards against log-probs at the place of a masked token, and forced tokens that overwrite the sampler's own."""
    nan = float("nan")
    spliced = make_sample(
        (7, 8, 9, 1),
        mask=(True, False, True, True),
        log_probs=(-0.5, -8.0, nan, nan),
        forced=(False, False, True, True),
    )
    part = PolicyGradient((reply_of(2), spliced, spliced, spliced), (1.0, 1.0, 0.0, -1.0))
    assert missing_old_log_probs(part, recompute=False) == [1, 3], "one without an advantage costs nothing"
    assert missing_old_log_probs(part, recompute=True) == [0, 1, 3]
    computed = {1: torch.tensor([-0.75, -1.0, -1.25])}
    plain = (-1.0, -1.0)
    forced_alone = with_old_log_probs(part, computed, recompute=False).old_log_probs
    assert forced_alone == (None, (-0.5, -8.0, -1.0, -1.25), None, None)
    both = with_old_log_probs(part, {**computed, 0: torch.tensor(plain)}, recompute=True).old_log_probs
    assert both == (plain, (-0.75, -8.0, -1.0, -1.25), None, None)


def test_pairs_share_the_mean_over_pairs() -> None:
    """Guards against a mean over rows (6) or tokens: the scale is coefficient / pairs = 2 / 3.

    A pair of which nothing is trained does not count; one with a single such side does.
    """
    chosen = (reply_of(2), reply_of(3), NOTHING_TRAINED[0], reply_of(5))
    rejected = (reply_of(7), NOTHING_TRAINED[0], NOTHING_TRAINED[1], reply_of(3))
    found = training_samples(Prefer(chosen, rejected, coefficient=2.0))
    pairs = [(chosen[k], rejected[k]) for k in (0, 1, 3)]
    assert [(c.sample, r.sample) for c, r in zip(found[0::2], found[1::2], strict=True)] == pairs
    assert {one.scale for one in found} == {2 / 3}
    assert training_samples(Prefer(NOTHING_TRAINED, NOTHING_TRAINED)) == []


def test_pairs_stay_together_within_the_budget() -> None:
    """Guards against a pair that is torn apart. Prompts of 3: pairs of 5 + 6, 6 + 3 and 8 + 8 tokens, of at most 20."""
    chosen, rejected = (reply_of(2), reply_of(3), reply_of(5)), (reply_of(3), NOTHING_TRAINED[0], reply_of(5))
    part = Prefer(chosen, rejected)
    for max_tokens, sizes in ((20, [4, 2]), (19, [2, 2, 2]), (1, [2, 2, 2]), (36, [6])):
        batches = loss_of(part).pack(training_samples(part), max_tokens, 1)
        assert [len(batch) for batch in batches] == sizes


def test_a_reply_without_a_prompt_is_refused() -> None:
    """Its first token would be trained from the last place of whatever comes before it in the micro-batch."""
    with pytest.raises(AssertionError, match="predicted from its prompt"):
        lay_out([TrainingSample(make_sample((7, 1), prompt_ids=()))])
