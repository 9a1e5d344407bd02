"""The paired difference of two evaluations, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.evaluation.answers import Answer
from rethink.evaluation.compare import Evaluation, Pair, check_runs_differ
from rethink.evaluation.compare import compare as compare_pairs
from rethink.evaluation.comparison import Comparison
from rethink.evaluation.intervals import difference, macro_difference
from support.evaluations import answer, answers, drafts, made, step

R, W, N = True, False, None


def compare(ours: Sequence[Answer], theirs: Sequence[Answer], ks: Sequence[int] = ()) -> Comparison:
    return compare_pairs([(Evaluation("ours", ours), Evaluation("theirs", theirs))], ks)


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


def test_the_rates_of_fresh_answers_are_compared_too() -> None:
    """Guards against a fix rate that is higher only as any other answer would be. Ours fixes 2 of 2 wrong drafts, and the
    other draft of each is right: 2/2. Theirs fixes 0 of 4; for two of them, one of two others is right: (1/2 + 1/2) / 4."""
    ours = [answer(p, v, R, index=n) for p in ("p0", "p1") for n, v in enumerate((R, W))]
    theirs = [answer("p0", v, v, index=n) for n, v in enumerate((R, W, W))]
    theirs += [answer("p1", W, W, index=n) for n in range(2)]
    found = compare(ours, theirs).differences
    rates = ("fix rate", "fix rate of fresh answers", "damage rate", "damage rate of fresh answers")
    assert list(found) == ["solve", "refined", *rates]
    assert [found[name]["s"].value for name in rates] == pytest.approx([1, 3 / 4, 0, 0])
    assert found["damage rate of fresh answers"]["s"].n == 2  # p1 has a right draft on one side alone


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=20))
def test_an_evaluation_does_not_differ_from_itself(pairs: list[tuple[bool, bool]]) -> None:
    """Guards against a difference of nothing, and a p-value other than 1."""
    for rows in compare(answers(pairs), answers(pairs), ks=[1]).differences.values():
        for gap in rows.values():
            assert gap.value == 0.0 or (math.isnan(gap.value) and gap.n == 0)
            assert gap.p == 1.0 or (math.isnan(gap.p) and gap.n < 2)


@settings(max_examples=25)
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


def test_a_benchmark_with_the_name_of_the_mean() -> None:
    """The mean once took the place of a benchmark called "mean": +1 on its problem, 0 on that of b."""
    first = [*answers([(R, R)], "mean"), *answers([(W, W)], "b")]
    second = [*answers([(W, R)], "mean"), *answers([(W, W)], "b")]
    found = compare(first, second)
    assert {suite: gap.value for suite, gap in found.differences["solve"].items()} == {
        "mean": 1,
        "b": 0,
        "mean of 2": 0.5,
    }
    assert "solve, mean of 2" in str(found)


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


# Several runs


def runs(*pairs: tuple[Sequence[Answer], Sequence[Answer]]) -> list[Pair]:
    found: list[Pair] = []
    for n, (ours, theirs) in enumerate(pairs):
        found.append((Evaluation(f"ours-{n}", ours), Evaluation(f"theirs-{n}", theirs)))
    return found


def test_runs_are_pooled_by_problem_and_averaged() -> None:
    """Guards against runs that count as further problems, and against an interval over seeds from the pooled outcomes.

    Gaps of the two runs: +1/4 and +3/4; half-width 12.706 * sqrt(2 / 16 / 2) = 3.1766 around 1/2.
    """
    first = answers([(W, R), (W, W), (W, W), (W, W)]), answers([(W, W)] * 4)
    second = answers([(W, R), (W, R), (W, R), (W, W)]), answers([(W, W)] * 4)
    found = compare_pairs(runs(first, second))
    pooled, over = found.differences["refined"]["s"], found.over_seeds["refined"]["s"]
    ours = [("p0", 1.0), ("p0", 1.0), *((p, x) for p in ("p1", "p2") for x in (0.0, 1.0)), ("p3", 0.0), ("p3", 0.0)]
    assert pooled == difference(ours, [(problem, 0.0) for problem, _ in ours])
    assert (pooled.value, pooled.n) == (0.5, 4)
    assert (over.value, over.n) == (0.5, 2)
    assert (over.low, over.high) == pytest.approx((-2.6766, 3.6766), abs=1e-4)
    assert [pair.differences["refined"]["s"].value for pair in found.pairs] == [0.25, 0.75]
    assert [(pair.after, pair.before) for pair in found.pairs] == [("ours-0", "theirs-0"), ("ours-1", "theirs-1")]
    assert found.pairs[0].differences == compare(*first).differences


def test_a_single_run_has_no_interval_over_seeds() -> None:
    """Guards against the interval over problems under another name."""
    found = compare(answers([(R, R), (W, R)]), answers([(R, R), (W, W)]))
    over = found.over_seeds["refined"]["s"]
    assert (over.value, over.n, math.isnan(over.low), math.isnan(over.p)) == (0.5, 1, True, True)


def test_runs_are_compared_on_the_problems_that_all_have() -> None:
    """Guards against pairs that are about different problems: the second lacks p2, on which the first differs."""
    first = answers([(R, R), (R, R), (R, R)]), answers([(R, R), (W, W), (W, W)])
    second = answers([(R, R), (R, R)]), answers([(W, W), (R, R)])
    found = compare_pairs(runs(first, second))
    assert (found.n_shared, found.n_unshared) == (2, 1)
    assert [pair.differences["solve"]["s"].value for pair in found.pairs] == [0.5, 0.5]


def test_suites_of_several_runs_and_their_mean() -> None:
    """Guards against means of one run: the gaps in a are 1 and 0, in b 0 and 0."""
    a, b = answers([(R, R), (R, R)], "a"), answers([(R, R), (W, W)], "b")
    first = [*a, *b], [*answers([(W, R), (W, R)], "a"), *b]
    second = [*a, *b], [*answers([(R, W), (R, W)], "a"), *b]
    found = compare_pairs(runs(first, second))
    assert {suite: gap.value for suite, gap in found.over_seeds["solve"].items()} == {"a": 0.5, "b": 0.0, "mean": 0.25}
    in_a = [(p, 1.0) for p in ("p0", "p0", "p1", "p1")], [(p, x) for p in ("p0", "p1") for x in (0.0, 1.0)]
    in_b = [("p0", 1.0), ("p0", 1.0), ("p1", 0.0), ("p1", 0.0)]
    assert found.differences["solve"]["mean"] == macro_difference([in_a, (in_b, in_b)])


def test_bounds_of_several_runs() -> None:
    """Guards against ungraded replies that vanish in a mean: N is right or wrong in one run of two, with two problems each.

    Refined of ours: 1, and 0 or 1, of 2, and 1 of 2; of theirs 0. Equal drafts that were not graded make no difference.
    """
    first = answers([(N, R), (W, N)]), answers([(N, W), (W, W)])
    second = answers([(W, R), (W, W)]), answers([(W, W), (W, W)])
    found = compare_pairs(runs(first, second))
    pooled, over = found.differences["refined"]["s"], found.over_seeds["refined"]["s"]
    assert (pooled.at_least, pooled.at_most) == (over.at_least, over.at_most) == (0.5, 0.75)
    assert found.differences["solve"]["s"].at_least is None
    assert [pair.n_not_graded for pair in found.pairs] == [(2, 1), (0, 0)]


def test_strategies_that_some_lack_are_named() -> None:
    """Guards against a strategy that is left out without a word; first answers are compared whatever the strategy."""
    found = compare([*answers([(R, R)]), made("p0", "vote:2", [R])], drafts("p0", R))
    assert (list(found.differences), found.left_out) == (["solve"], ["refine", "vote:2"])


SAME, OTHER, MORE = answers([(R, R)]), answers([(W, R)]), answers([(W, W)])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(SAME, OTHER), (SAME, OTHER)], "ours-1 has the same answers as ours-0; each pair needs other runs"),
        ([(SAME, OTHER), (OTHER, MORE), (SAME, SAME)], "ours-2 has the same answers as ours-0"),
        ([(SAME, OTHER), (OTHER, MORE), (MORE, MORE)], "theirs-2 has the same answers as theirs-1"),
    ],
)
def test_a_run_cannot_count_twice(pairs: list[tuple[list[Answer], list[Answer]]], message: str) -> None:
    """Guards against certainty from copies: one run that is given n times."""
    with pytest.raises(UserError, match=message):
        check_runs_differ(runs(*pairs))


def test_one_side_may_be_the_same_model() -> None:
    """Guards against a refusal of runs that are compared with their common start model."""
    check_runs_differ(runs((SAME, MORE), (OTHER, MORE)))
    check_runs_differ(runs((MORE, SAME), (MORE, OTHER)))
    check_runs_differ(runs((SAME, SAME)))


def test_errors_name_the_run() -> None:
    """Guards against a message that leaves the user to find out which of ten evaluations it means."""
    good = answers([(R, R), (W, W)])
    with pytest.raises(UserError, match="theirs-1 and ours-0: the two evaluations have no problem in common"):
        compare_pairs(runs((good, good), (good, answers([(R, R)], "other"))))
    with pytest.raises(UserError, match="ours-1 and ours-0: problem p0 has different questions"):
        compare_pairs(runs((good, good), ([answer("p0", R, R, question="?")], good)))
    with pytest.raises(UserError, match="no problem has answers in all of ours-0, theirs-0, ours-1, theirs-1"):
        compare_pairs(runs((good, good), (good[:1], good[1:])))
    with pytest.raises(UserError, match=r"theirs-1 and ours-1: pass@1 needs 1 graded answers"):
        compare_pairs(runs((good, good), (answers([(N, N), (N, N)]), good)), [1])
