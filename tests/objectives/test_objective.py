"""Objectives: which samples of a group are trained, with which advantages and settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from rethink.errors import UserError
from rethink.objectives import AdvantageAwareShaping, Clip, Objective, Shaping
from rethink.types import Sampling
from support.method_runs import NOT_GRADED, R, W, graded_group, graded_sample, only_part


def test_settings_reach_the_part() -> None:
    """Guards against a setting that is accepted and not used."""
    objective = Objective("standardize", 0.1, 0.3, 5.0, "sequence", "constant", 17, kl_coef=0.05, n_steps=3)
    update = objective.update("solve", [graded_group(R, W)])
    part = only_part(update)
    assert part.surrogate == Clip(0.1, 0.3, 5.0, "sequence")
    assert (part.loss_aggregation, part.constant_length, part.kl_coef) == ("constant", 17, 0.05)
    assert (update.name, update.n_steps, part.coefficient) == ("solve", 3, 1.0)
    shaped = objective.update("solve", [graded_group(R, W)], Shaping("constant"))
    assert only_part(shaped).surrogate == AdvantageAwareShaping("constant", clip=Clip(0.1, 0.3, 5.0, "sequence"))


def test_samples_that_were_not_graded_are_left_out() -> None:
    """Guards against a failed verifier that counts as reward 0: of right, wrong and not graded, the mean is 1/2."""
    group = graded_group(R, W, NOT_GRADED)
    assert Objective().pairs([group]) == [(group[0], 0.5), (group[1], -0.5)]
    for too_small in ((R, NOT_GRADED), (R,), ()):
        assert Objective("standardize").pairs([graded_group(*too_small)]) == []


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [
        # Rewards 1 0 1 0: mean 1/2.
        ("keep", [0.5, -0.5, 0.5, -0.5]),
        # The same baseline, but no loss for the two replies that were cut.
        ("mask", [0.5, -0.5, None, None]),
        # Rewards 1 0 0 0: mean 1/4.
        ("wrong", [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_truncated_replies(truncated: Literal["keep", "mask", "wrong"], expected: list[float | None]) -> None:
    """Guards against masked replies that leave the baseline, and settings that do nothing."""
    group = (*graded_group(R, W), graded_sample(2, R, "length"), graded_sample(3, W, "length"))
    found = {sample.index: a for sample, a in Objective(truncated=truncated).pairs([group])}
    assert [found.get(index) for index in range(4)] == expected


def test_a_cut_reply_keeps_its_penalty() -> None:
    """Regression: with a reward term that punishes, a cut reply had reward 0, more than a finished wrong one. Rewards here
    are -0.4, -0.2 and at most 0: mean -0.2."""
    cut, wrong, right = graded_sample(0, W, "length"), *graded_group(W, R)
    group = (replace(cut, reward=-0.4), replace(wrong, reward=-0.2), replace(right, reward=1.0, stop="length"))
    found = [advantage for _, advantage in Objective(truncated="wrong").pairs([group])]
    assert found == pytest.approx([-0.2, 0.0, 0.2])


def test_rewards_count_and_not_verdicts() -> None:
    """Guards against advantages from verdicts if rewards differ from them, or are missing."""
    rewards = [1.0, 0.5, 0.0, None]
    group = tuple(replace(s, reward=r) for s, r in zip(graded_group(R, R, R, R), rewards, strict=True))
    assert [(s.index, a) for s, a in Objective().pairs([group])] == [(0, 0.5), (1, 0.0), (2, -0.5)]


def test_the_overlong_penalty_changes_rewards() -> None:
    """Guards against a penalty that is added to the advantage: with a cap of 4 and a buffer of 2, 3 tokens lose 1/2."""
    long = [replace(sample, sampling=Sampling(max_tokens=4)) for sample in graded_group(R, W)]
    short = replace(long[0], index=2, ids=(5, 1))
    # Rewards 1 - 1/2, 0 - 1/2, 1: mean 1/3.
    found = {s.index: a for s, a in Objective(overlong_buffer=2).pairs([(*long, short)])}
    assert found == pytest.approx({0: 1 / 6, 1: -5 / 6, 2: 2 / 3})


def test_zero_std_groups_are_kept_or_dropped() -> None:
    """Guards against groups of equal rewards that leave the denominator unasked, or that hide from the monitors."""
    groups = [graded_group(R, R, R, seed=2), graded_group(R, W, seed=3), graded_group(W, W, seed=5)]
    kept = only_part(Objective().update("solve", groups))
    assert kept.advantages == (0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0)
    dropped = Objective(zero_std_groups="drop").update("solve", groups)
    assert only_part(dropped).samples == groups[1]
    assert dropped.groups == tuple(groups)
    # Rewards decide, not verdicts: with truncated="wrong" all rewards here are 0.
    cut = (graded_sample(0, W), graded_sample(1, R, "length"), graded_sample(2, W))
    assert Objective(zero_std_groups="drop", truncated="wrong").pairs([cut]) == []
    assert len(Objective(zero_std_groups="drop").pairs([cut])) == 3


def test_advantages_of_the_whole_update() -> None:
    """Guards against batch statistics per group: rewards 1 0 of one group and 1 of a group with a single graded reply."""
    groups = [graded_group(R, W, seed=2), graded_group(R, NOT_GRADED, seed=3)]
    # Mean 2/3; squares 2/9 + 4/9 = 2/3, over 2 = 1/3, root 0.57735: 0.57735 and -1.1547.
    pairs = Objective("reinforce_pp").pairs(groups)
    assert [s for s, _ in pairs] == [*groups[0], groups[1][0]]
    assert [a for _, a in pairs] == pytest.approx([0.57735, -1.1547, 0.57735], abs=1e-4)
    # A baseline of the group leaves the second group out. Dropped groups are not in the statistics, either.
    assert [s for s, _ in Objective("reinforce_pp_baseline").pairs(groups)] == list(groups[0])
    dropped = Objective("reinforce_pp", zero_std_groups="drop")
    assert [s for s, _ in dropped.pairs([*groups, graded_group(R, R, seed=5)])] == list(groups[0])


def test_pass_at_k_needs_k_and_larger_groups() -> None:
    """Guards against pass@k without k, a k that does nothing, and groups in which all subsets are the same."""
    for settings in ({"advantage": "pass_at_k"}, {"pass_k": 3}):
        with pytest.raises(ValueError, match="need each other"):
            Objective(**settings)
    objective = Objective("pass_at_k", pass_k=2)
    assert [a for _, a in objective.pairs([graded_group(R, W, W)])] == pytest.approx(
        [0.7071, -0.3536, -0.3536], abs=1e-4
    )
    with pytest.raises(UserError, match="more than pass_k = 2 replies, but there is one of 2"):
        objective.pairs([graded_group(R, W, W), graded_group(R, W)])
    assert objective.pairs([()]) == []


def test_pass_at_k_drops_groups_whose_subsets_are_equal() -> None:
    """Guards against groups that count as useful, though each pair of their replies holds a right one."""
    easy, hard = graded_group(R, R, W, seed=2), graded_group(R, W, W, seed=3)
    objective = Objective("pass_at_k", pass_k=2, zero_std_groups="drop")
    assert [objective.useful(group) for group in (easy, hard, graded_group(R, NOT_GRADED, NOT_GRADED))] == [
        False,
        True,
        False,
    ]
    assert [sample for sample, _ in objective.pairs([easy, hard])] == list(hard)
    assert all(advantage == 0 for _, advantage in replace(objective, zero_std_groups="keep").pairs([easy]))
    assert replace(objective, advantage="center", pass_k=0).useful(easy)


def test_groups_of_one_reply_are_not_all_dropped() -> None:
    """Guards against a run without a single optimizer step."""
    with pytest.raises(ValueError, match='n_solve = 1 and zero_std_groups = "drop" would drop all groups'):
        Objective("reinforce_pp", zero_std_groups="drop").check_group_size("n_solve", 1)
    Objective("reinforce_pp", zero_std_groups="drop").check_group_size("n_solve", 2)
    Objective("reinforce_pp").check_group_size("n_solve", 1)


def test_a_constant_aggregation_divides_by_the_longest_possible_reply() -> None:
    """Guards against a length of 1, with which the loss is a sum over tokens, and one that beats the given length."""
    group = tuple(replace(sample, sampling=Sampling(max_tokens=17)) for sample in graded_group(R, W))
    assert only_part(Objective(loss_aggregation="constant").update("solve", [group])).constant_length == 17
    given = Objective(loss_aggregation="constant", constant_length=5)
    assert only_part(given.update("solve", [group])).constant_length == 5


def test_shaping_needs_the_clipped_surrogate() -> None:
    """Guards against shaping that is dropped without a word."""
    with pytest.raises(ValueError, match='needs surrogate = "clip", not "sapo"'):
        Objective(surrogate="sapo").update("solve", [graded_group(R, W)], Shaping())
