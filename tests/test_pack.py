"""Micro-batches, shares and denominators, by hand and by properties."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.train.pack import Row, by_group, pack, shares
from rethink.train.parts import pair_rows, rows, split
from rethink.types import Imitate, PolicyGradient, Prefer, Sample
from samples import make_sample, reply_of

NOTHING_TRAINED = (make_sample(()), make_sample((8, 9), mask=(False, False)))


def test_layout_by_hand() -> None:
    """Guards against shifted targets, padding or forced tokens in the loss, and values of one row given to another.

    Row 0 is the shorter one, 2 + 2 tokens: ids 5 6 | 7 1, padded by one; 6 predicts 7 and 7 predicts 1.
    Row 1 has 2 + 3 tokens: ids 5 9 | 11 12 13, of which 12 was forced; 9 predicts 11 and 12 predicts 13.
    """
    long = make_sample(
        (11, 12, 13), prompt_ids=(5, 9), mask=(True, False, True), log_probs=(-0.25, -8.0, -0.5), temperature=0.5
    )
    short = make_sample((7, 1), prompt_ids=(5, 6), log_probs=(-1.5, -2.0))
    first, second = Row(long, weight=-3.0, scale=0.125, old=(-0.75, -9.0, -1.0)), Row(short, weight=2.0, scale=0.5)
    (micro,) = pack([first, second], max_tokens=10)
    assert micro.rows == (second, first)
    assert micro.ids_N_T.tolist() == [[5, 6, 7, 1, 0], [5, 9, 11, 12, 13]]
    assert micro.positions_N_T.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert micro.row_T.tolist() == [0, 0, 1, 1]
    assert micro.column_T.tolist() == [1, 2, 1, 3]
    assert micro.target_T.tolist() == [7, 1, 11, 13]
    assert micro.sampler_T.tolist() == [-1.5, -2.0, -0.25, -0.5]
    assert micro.old_T.tolist() == [-1.5, -2.0, -0.75, -1.0]
    assert micro.weight_T.tolist() == [2.0, 2.0, -3.0, -3.0]
    assert micro.scale_T.tolist() == [0.5, 0.5, 0.125, 0.125]
    assert micro.temperature_T.tolist() == [1.0, 1.0, 0.5, 0.5]
    integers = (micro.ids_N_T, micro.row_T, micro.column_T, micro.target_T)
    assert {x.dtype for x in integers} == {torch.long}
    numbers = (micro.sampler_T, micro.old_T, micro.weight_T, micro.scale_T, micro.temperature_T)
    assert {x.dtype for x in numbers} == {torch.float32}


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
    (micro,) = pack([Row(spliced, old=(-0.75, -9.0, -1.0, -2.5)), Row(plain, old=(-1.0, -3.0))], max_tokens=100)
    assert micro.target_T.tolist() == [7, 1, 7, 9, 1]
    assert micro.forced_T.tolist() == [False, False, False, True, True]
    assert micro.sampler_T.tolist() == [-1.5, -2.0, -0.5, -1.0, -2.5]
    assert micro.old_T.tolist() == [-1.0, -3.0, -0.75, -1.0, -2.5]


def test_rows_without_trained_tokens_are_left_out() -> None:
    """Guards against a crash on an empty reply, and against forward passes that train nothing."""
    assert pack([Row(s) for s in NOTHING_TRAINED], max_tokens=100) == []
    (micro,) = pack([Row(NOTHING_TRAINED[0]), Row(reply_of(2)), Row(NOTHING_TRAINED[1])], max_tokens=100)
    assert [row.sample for row in micro.rows] == [reply_of(2)]


def lengths(n_tokens: list[int], max_tokens: int) -> list[list[int]]:
    """Lengths of the rows in each micro-batch; prompts have one token."""
    micros = pack([Row(make_sample((8,) * (n - 1), prompt_ids=(2,))) for n in n_tokens], max_tokens)
    return [[1 + len(row.sample.ids) for row in micro.rows] for micro in micros]


def test_micro_batches_by_hand() -> None:
    """Guards against a budget that counts tokens without their padding.

    With 14: 2, 3, 3 fill 9, but with 5 they would fill 20; 5 and 7 fill 14; 11 alone; 17 is over the budget and alone.
    """
    assert lengths([7, 2, 17, 3, 11, 5, 3], 14) == [[2, 3, 3], [5, 7], [11], [17]]
    assert lengths([7, 2, 3], 1) == [[2], [3], [7]]
    assert lengths([7, 2, 3], 21) == [[2, 3, 7]]


@given(st.lists(st.integers(2, 23), max_size=13), st.integers(1, 101))
@settings(max_examples=50, deadline=None)
def test_every_row_is_packed_once_and_within_the_budget(n_tokens: list[int], max_tokens: int) -> None:
    """Guards against lost or doubled rows, and against batches that outgrow memory."""
    batches = lengths(n_tokens, max_tokens)
    assert sorted(n for batch in batches for n in batch) == sorted(n_tokens)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= max_tokens for batch in batches)


def test_shares_by_hand() -> None:
    """Guards against split groups and against a remainder that lands in one share: 7 groups as 2 + 2 + 3."""
    groups = [[0, 1], [2], [3, 4], [5], [6], [7, 8, 9], [10]]
    assert shares(groups, 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9, 10]]
    assert sorted(map(len, shares([[0], [1], [2]], 4))) == [0, 1, 1, 1]
    assert shares([], 2) == [[], []]


@given(st.integers(0, 29), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_shares_keep_order_and_differ_by_one_group_at_most(n_groups: int, n_steps: int) -> None:
    """Guards against groups that are dropped, repeated or moved by rounding."""
    found = shares([[g] for g in range(n_groups)], n_steps)
    assert len(found) == n_steps
    assert [g for share in found for g in share] == list(range(n_groups))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def interleaved() -> tuple[Sample, ...]:
    """Seven samples of three groups, in the order a b a c b a c."""
    return tuple(make_sample((20 + i, 1), group=g) for i, g in enumerate("abacbac"))


def test_groups_are_told_by_identity() -> None:
    """Guards against membership by position (pitfall 24)."""
    assert by_group(interleaved()) == [[0, 2, 5], [1, 4], [3, 6]]


@pytest.mark.parametrize("part", [PolicyGradient, Imitate])
def test_split_keeps_groups_whole_and_weights_with_their_samples(part: type[PolicyGradient] | type[Imitate]) -> None:
    """Guards against weights that stay in place while samples move; 3 groups in 2 steps are 1 + 2."""
    whole = part(interleaved(), tuple(map(float, range(7))), coefficient=5.0)
    one, two = split(whole, 2)
    assert isinstance(one, part)
    assert isinstance(two, part)
    assert one.weights == (0.0, 2.0, 5.0)
    assert two.weights == (1.0, 4.0, 3.0, 6.0)
    for piece in (one, two):
        assert piece.coefficient == 5.0
        assert piece.samples == tuple(whole.samples[int(w)] for w in piece.weights)


def test_split_keeps_pairs_together() -> None:
    """Guards against pairs torn apart: the rejected go where their chosen go."""
    chosen = interleaved()
    rejected = tuple(make_sample((50 + i, 1), group="other") for i in range(7))
    one, two = split(Prefer(chosen, rejected, beta=0.5), 2)
    assert isinstance(one, Prefer)
    assert isinstance(two, Prefer)
    assert [s.ids[0] for s in one.chosen] == [20, 22, 25]
    assert [s.ids[0] for s in one.rejected] == [50, 52, 55]
    assert [s.ids[0] for s in two.chosen] == [21, 24, 23, 26]
    assert [s.ids[0] for s in two.rejected] == [51, 54, 53, 56]
    assert one.beta == two.beta == 0.5


def test_an_empty_part_splits_into_empty_parts() -> None:
    """Guards against a crash on a part without samples, which is a legal zero loss."""
    assert split(PolicyGradient((), ()), 3) == [PolicyGradient((), ())] * 3
    assert split(Prefer((), ()), 2) == [Prefer((), ())] * 2
    assert rows(PolicyGradient((), ()), {}) == []
    assert pair_rows(Prefer((), ())) == []


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
    """Guards against denominators that count forced tokens or rows without trained ones (pitfall 7)."""
    holes = reply_of(5, mask=(True, False, True, False, True))
    samples = (reply_of(2), NOTHING_TRAINED[0], holes, NOTHING_TRAINED[1], reply_of(7))
    part = PolicyGradient(samples, (1.0, 2.0, 3.0, 4.0, 5.0), mean=mean, length=11, coefficient=6.0)
    found = rows(part, {})
    assert [row.weight for row in found] == [1.0, 3.0, 5.0]
    assert [row.scale for row in found] == pytest.approx(scales, rel=1e-15)


def test_weight_zero_stays_in_the_denominator_without_a_row() -> None:
    """Guards against silent groups that leave the mean (2 of 2 + 7 tokens), and against paying for them."""
    samples = (reply_of(2), reply_of(7))
    (row,) = rows(PolicyGradient(samples, (1.0, 0.0)), {})
    assert (row.sample, row.scale) == (samples[0], 1 / 9)
    assert [r.sample for r in rows(PolicyGradient(samples, (1.0, 0.0), kl=0.1), {})] == list(samples)


def test_recomputed_log_probs_go_to_their_own_sample() -> None:
    """Guards against a mix-up of samples that compare equal: they are told apart by identity."""
    twins = (reply_of(2), reply_of(2))
    found = rows(PolicyGradient(twins, (1.0, -1.0)), {id(twins[1]): (-0.5, -0.25)})
    assert [row.old for row in found] == [None, (-0.5, -0.25)]


def test_pairs_share_the_mean_over_pairs() -> None:
    """Guards against a mean over rows (6) or tokens: the scale is coefficient / pairs = 2 / 3.

    A pair of which nothing is trained does not count (pitfall 7); one with a single such side does.
    """
    chosen = (reply_of(2), reply_of(3), NOTHING_TRAINED[0], reply_of(5))
    rejected = (reply_of(7), NOTHING_TRAINED[0], NOTHING_TRAINED[1], reply_of(3))
    pairs = pair_rows(Prefer(chosen, rejected, coefficient=2.0))
    assert [(c.sample, r.sample) for c, r in pairs] == [(chosen[k], rejected[k]) for k in (0, 1, 3)]
    assert {row.scale for pair in pairs for row in pair} == {2 / 3}
    assert pair_rows(Prefer(NOTHING_TRAINED, NOTHING_TRAINED)) == []


def test_a_reply_without_a_prompt_is_refused() -> None:
    """Its first token used to be trained from the row's last hidden state: column -1."""
    with pytest.raises(AssertionError, match="predicted from its prompt"):
        pack([Row(make_sample((7, 1), prompt_ids=()))], max_tokens=10)
