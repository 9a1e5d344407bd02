"""The paired difference of two evaluations, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.evaluation.answers import Answer
from rethink.evaluation.compare import compare
from support.evaluations import answer, answers, drafts, made, step

R, W, N = True, False, None


def test_differences_by_hand() -> None:
    """Guards against second minus first, and unpaired problems."""
    ours = answers([(R, R), (R, R), (R, R), (W, R)])
    theirs = answers([(R, R), (W, R), (W, W), (W, W)])
    found = compare(ours, theirs)
    assert list(found.differences) == ["solve", "refined", "fix rate", "damage rate"]
    gaps = {measure: rows["s"] for measure, rows in found.differences.items()}
    assert (gaps["solve"].value, gaps["solve"].n) == (0.5, 4)
    assert (gaps["refined"].value, gaps["refined"].n) == (0.5, 4)
    assert (gaps["fix rate"].value, gaps["fix rate"].n) == pytest.approx((1 - 1 / 3, 3))
    assert (gaps["damage rate"].value, gaps["damage rate"].n) == (0.0, 3)
    assert gaps["solve"].low < 0.5 < gaps["solve"].high
    assert (found.n_shared, found.n_unshared) == (4, 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=20))
def test_an_evaluation_does_not_differ_from_itself(pairs: list[tuple[bool, bool]]) -> None:
    """Guards against a difference of nothing, and a p-value other than 1."""
    for rows in compare(answers(pairs), answers(pairs), ks=[1]).differences.values():
        for gap in rows.values():
            assert gap.value == 0.0 or (math.isnan(gap.value) and gap.n == 0)
            assert gap.p == 1.0 or (math.isnan(gap.p) and gap.n < 2)


@given(*[st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=5)] * 2)
def test_swapping_the_evaluations_changes_the_sign(a: list[tuple[bool, bool]], b: list[tuple[bool, bool]]) -> None:
    """Guards against a second arm that is treated otherwise than the first."""
    ahead, back = (compare(answers(x), answers(y)).differences for x, y in ((a, b), (b, a)))
    for measure in ("solve", "refined"):
        ours, theirs = ahead[measure]["s"], back[measure]["s"]
        assert (ours.value, ours.low, ours.high, ours.p) == pytest.approx(
            (-theirs.value, -theirs.high, -theirs.low, theirs.p)
        )


def test_problems_that_only_one_has_are_left_out_and_counted() -> None:
    """Guards against unshared problems that decide: on p0 and p1 both are alike, ours has 3 more, theirs has x."""
    ours = answers([(R, R), (W, W), (R, R), (R, R), (R, R)])
    theirs = [*answers([(R, R), (W, W)]), answer("x", W, W)]
    found = compare(ours, theirs)
    assert (found.n_shared, found.n_unshared) == (2, 4)
    assert (found.differences["solve"]["s"].value, found.differences["solve"]["s"].n) == (0.0, 2)


def test_problems_that_one_has_no_answer_to_are_left_out() -> None:
    """Problems over-long to ask or to refine, or not graded, in one evaluation once counted in the other alone."""
    ours = answers([(R, R), (W, R), (R, R), (R, R), (R, R)])
    skipped = made("p2", "refine", (), notes={"over-long prompts": 1})
    unrefined = [answer("p3", N, overlong=True), answer("p4", R, overlong=True)]
    theirs = [*answers([(R, R), (W, R)]), skipped, *unrefined]
    for found in (compare(ours, theirs), compare(theirs, ours)):
        assert (found.n_shared, found.n_unshared) == (4, 1)
        solve, refined = (found.differences[name]["s"] for name in ("solve", "refined"))
        assert (solve.value, solve.n, refined.value, refined.n) == (0.0, 3, 0.0, 2)


def test_pass_at_k_by_hand() -> None:
    """Guards against pass@k of the arms together: ours 1 - C(2,2)/C(4,2) = 5/6, theirs with 2 answers, 1 right, 1."""
    found = compare([*drafts("a", R, R, W, W), *drafts("b", W, W)], [*drafts("a", R, W), *drafts("b", W, R)], ks=[2])
    assert list(found.differences) == ["solve", "solve pass@2"]
    assert found.differences["solve pass@2"]["s"].value == pytest.approx((5 / 6 + 0) / 2 - 1)


def test_a_k_beyond_the_answers_is_an_error() -> None:
    """A row that was asked for once was left out without a word."""
    with pytest.raises(UserError, match=r"pass@3 needs 3 graded answers to a problem from both evaluations"):
        compare(drafts("a", R, W, W), drafts("a", R, W), ks=[2, 3])


def test_benchmarks_and_their_mean() -> None:
    """Guards against problems of one name in two benchmarks, and a mean that is weighted: +1 on one problem of a, 0 on two
    of b, mean +1/2."""
    first = [*answers([(R, R)], "a"), *answers([(R, R), (W, W)], "b")]
    second = [*answers([(W, R)], "a"), *answers([(R, R), (W, W)], "b")]
    found = compare(first, second).differences["solve"]
    assert {suite: (gap.value, gap.n) for suite, gap in found.items()} == {"a": (1, 1), "b": (0, 2), "mean": (0.5, 3)}
    assert "mean" not in compare(first[:1], second).differences["solve"]


def test_nothing_in_common_is_an_error() -> None:
    """Guards against a table of nothing; equal names in other benchmarks are no common problems."""
    for theirs in (answers([(R, R)], "other"), [answer("x", R, R)], []):
        with pytest.raises(UserError, match="no problem in common"):
            compare(answers([(R, R)]), theirs)


def test_another_question_under_one_id_is_an_error() -> None:
    """Guards against row numbers of two versions of a file that are taken for the same problems."""
    theirs = [answer("p0", R, R), answer("p1", R, R, question="What else?")]
    with pytest.raises(UserError, match="problem p1 has different questions in the two evaluations"):
        compare(answers([(R, R), (R, R)]), theirs)


def test_first_answers_are_those_of_solve_where_both_have_it() -> None:
    """Guards against a difference that the tables of the two evaluations contradict: votes draw further first answers, by
    which ours would be 2 of 3 against 2 of 3."""

    def evaluation(first: bool, *more: bool) -> list[Answer]:
        firsts = [step("solve", right, index=n) for n, right in enumerate((first, *more))]
        return [made("p", "solve", (first,), firsts[:1]), made("p", "vote:3", (), firsts)]

    found = compare(evaluation(R, R, W), evaluation(W, R, R), ks=[1])
    assert found.differences["solve"]["s"].value == found.differences["solve pass@1"]["s"].value == 1.0


def test_strategies_that_both_have_are_compared() -> None:
    """Guards against a comparison of the first strategy alone, or of one strategy's answers with another's."""
    tie = [step("solve", R), step("solve", W, index=1)]
    ours = [*answers([(R, R), (W, W)]), made("p0", "vote:2", [R], tie[:1]), made("p1", "vote:2", [R, W], tie)]
    theirs = [*answers([(R, R), (W, W)]), made("p0", "vote:2", [W], tie[1:]), made("p1", "vote:2", [W], tie[1:])]
    theirs.append(made("p0", "best:2", [R], tie[:1]))
    found = compare(ours, theirs, ks=[1]).differences
    names = ["refine: refined", "refine: fix rate", "refine: damage rate", "refine: refined pass@1"]
    assert list(found) == ["solve", "solve pass@1", *names, "vote:2: accuracy", "vote:2: accuracy pass@1"]
    assert found["refine: refined"]["s"].value == 0.0
    assert found["vote:2: accuracy"]["s"].value == 0.75
    assert found["vote:2: accuracy pass@1"]["s"].value == 0.75
