"""The numbers of an evaluation, each by hand; what is undefined is NaN, null or a word, and never 0."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import combinations

import pytest

from rethink.evaluation.answers import Answer, by_suite
from rethink.evaluation.intervals import wilson_interval
from rethink.evaluation.outcomes import final_pass_outcomes
from rethink.evaluation.pass_at_k import expected_pass_at_k
from rethink.evaluation.summary import (
    MacroSummary,
    evaluation_metrics,
    macro_summary,
    summarize,
)
from rethink.jsonl import to_json
from support.evaluations import answer, answers, drafts, made, pair, step

R, W, N = True, False, None


def mean_of(some: list[Answer]) -> MacroSummary:
    suites = list(by_suite(some).values())
    return macro_summary([summarize(own) for own in suites], suites)


def one(name: str, right: bool | None, **changes: object) -> Answer:
    """A first answer with some of its fields changed."""
    return made(name, "solve", [right], [step("solve", right, **changes)])  # type: ignore[arg-type]


def test_transitions_by_hand() -> None:
    """Guards against rates over the wrong drafts. 4 right drafts, 1 damaged; 6 wrong ones, 2 fixed: 4/10 to 5/10."""
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 4
    found = summarize(answers(pairs))
    assert found.refined
    assert found.fix
    assert pair(found.solve.accuracy) == (0.4, 10)
    assert pair(found.refined.accuracy) == (0.5, 10)
    assert pair(found.damage) == (0.25, 4)
    assert pair(found.fix) == (2 / 6, 6)
    assert (found.fix.low, found.fix.high) == pytest.approx(wilson_interval(2 / 6, 6), abs=1e-12)
    assert vars(found.transitions) == {"right_right": 3, "right_wrong": 1, "wrong_right": 2, "wrong_wrong": 4}
    assert pair(found.gain) == pytest.approx((0.1, 10))
    assert (found.n_problems, found.n_not_graded, found.n_not_refined) == (10, 0, 0)


def test_ungraded_answers_are_left_out_and_counted() -> None:
    """Guards against "not graded" as 0: 2 right, 1 wrong, 1 not graded draft; of the 2 right, one refinement unknown."""
    found = summarize(answers([(True, True), (True, None), (False, True), (None, True)]))
    assert found.refined
    assert pair(found.solve.accuracy) == (2 / 3, 3)
    assert pair(found.refined.accuracy) == (1.0, 3)
    assert pair(found.damage) == (0.0, 1)
    assert pair(found.fix) == (1.0, 1)
    # The same drafts before and after: p0 (1 to 1) and p2 (0 to 1), so 0.5 became 1.
    assert pair(found.gain) == (0.5, 2)
    assert (found.n_not_graded, found.n_replies, sum(found.not_graded.values())) == (2, 8, 2)
    lines = str(found).splitlines()
    assert lines[1] == "drafts 66.7 [20.8, 93.9] (50.0 to 75.0), refined 100.0 [43.9, 100.0] (75.0 to 100.0)"
    assert lines[-1].startswith("2 of 8 replies were not graded; in parentheses: the accuracy if all ")


def test_no_answers_give_nan() -> None:
    """Guards against a division by zero on an empty evaluation."""
    found = summarize([])
    for estimate in (found.solve.accuracy, found.solve.tokens, found.solve.truncated, found.accuracy):
        assert math.isnan(estimate.value)
    assert (found.refined, found.n_problems, found.n_drafts) == (None, 0, 0)


def test_pass_at_k_of_drafts_by_hand() -> None:
    """Guards against pass@k over all replies at once, or of fewer than k graded ones. a: 2 of 4 right, pass@2 =
    1 - C(2,2)/C(4,2) = 5/6; b: 1 of 4, 1 - C(3,2)/C(4,2) = 1/2; c: none; d: 1 of 1."""
    some = [*drafts("a", R, R, W, W), *drafts("b", W, R, W, W), *drafts("c", W, W, W, W), *drafts("d", R, N)]
    values = {k: (e.value, e.n) for k, e in summarize(some).solve.pass_at_k.items()}
    assert values["1"] == pytest.approx(((3 / 4 + 1) / 4, 4))
    assert values["2"] == pytest.approx(((5 / 6 + 1 / 2) / 3, 3))
    assert values["4"] == pytest.approx((2 / 3, 3))
    assert list(values) == ["1", "2", "4"]
    assert math.isnan(summarize(some, ks=[8]).solve.pass_at_k["8"].value)


def test_pass_at_k_draws_from_refinements_of_different_drafts() -> None:
    """Guards against pass@2 that is undefined where each draft has one refinement: 1 of 3 right, 1 - C(2,2)/C(3,2)."""
    some = [answer("a", W, right, index=n) for n, right in enumerate((R, W, W))]
    assert dict(final_pass_outcomes(some, 2)) == pytest.approx({"a": 2 / 3})


def test_pass_at_k_draws_from_several_refinements_of_one_draft() -> None:
    """Guards against refinements of different drafts in one draw. Drafts: R W, pass@2 1; W W, 0; R R, 1; mean 2/3. Of
    all six together it would be 1 - C(3,2)/C(6,2) = 4/5."""
    some = [answer("a", W, R, W), answer("a", W, W, W, index=1), answer("a", R, R, R, index=2)]
    assert dict(final_pass_outcomes(some, 2)) == pytest.approx({"a": 2 / 3})
    assert list(summarize(some).refined.pass_at_k) == ["1", "2"]  # type: ignore[union-attr]


def test_lengths_and_cuts_by_hand() -> None:
    """Guards against means over drafts and refinements together: lengths 2 and 5, then 7 and 13; one draft cut."""
    lengths = {"a": (2, "length", 3, 7, 11), "b": (5, "stop", 4, 13, 12)}
    pairs = []
    for name, (n, stop, shown, n_after, shown_after) in lengths.items():
        after = step("refine", R, n_after, shown=shown_after, draft=0)
        pairs.append(made(name, "refine", [R], [step("solve", R, n, stop=stop, shown=shown), after]))
    found = summarize(pairs)
    assert found.refined is not None
    assert (found.solve.tokens.value, found.refined.tokens.value) == (3.5, 10.0)
    assert (found.solve.prompt_tokens.value, found.refined.prompt_tokens.value) == (3.5, 11.5)
    assert (found.solve.truncated.value, found.refined.truncated.value) == (0.5, 0.0)


def test_unknown_lengths_and_cuts_are_left_out() -> None:
    """Guards against None as 0: of a, nothing is known; b has 5 tokens and was cut."""
    known = one("b", R, n_tokens=5, stop="length", shown=7)
    unknown = one("a", R, n_tokens=None, stop=None, shown=None)
    solve = summarize([unknown, known]).solve
    assert [(e.value, e.n) for e in (solve.tokens, solve.prompt_tokens, solve.truncated)] == [(5, 1), (7, 1), (1, 1)]


def test_entropy_by_hand() -> None:
    """Guards against entropy per token, and None as 0: replies of probability e^-2 and e^-4, and one that is unknown."""
    some = [one(f"p{n}", R, log_prob=log_prob) for n, log_prob in enumerate((-2.0, -4.0, None))]
    found = summarize(some)
    assert pair(found.solve.entropy) == (3.0, 2)
    assert evaluation_metrics(some)["solve_entropy_nats"] == 3.0
    assert math.isnan(summarize(drafts("p", R)).solve.entropy.value)
    certain = summarize([one("p", R, log_prob=0.0)]).solve.entropy
    assert f"{certain.value:.1f}" == "0.0"  # not "-0.0"


def test_replies_without_an_answer() -> None:
    """Guards against a share of 0 where the verifier does not say what it found (""): of the three that say, one."""
    texts = [None, "7", "", "8"]
    some = [one(f"p{n}", W, extracted=text) for n, text in enumerate(texts)]
    assert pair(summarize(some).solve.no_answer) == (1 / 3, 3)


def test_gain_is_paired() -> None:
    """Guards against a gain over other drafts than those that were refined: of 2 right and 2 wrong, only wrong ones were
    refined, one to right: 0/2 to 1/2, not 2/4 to 1/2."""
    some = [answer("a", R, overlong=True), answer("b", R, overlong=True), answer("c", W, R), answer("d", W, W)]
    assert (pair(summarize(some).gain), summarize(some).n_not_refined) == ((0.5, 2), 2)
    # Each draft counts once for each of its refinements: before 0/4, after 3/4.
    assert pair(summarize([answer("a", W, R, R), answer("b", W, R, W)]).gain)[0] == 0.75


def test_intervals_respect_problems() -> None:
    """Guards against intervals that take four answers to one problem for four problems: twice as wide with all alike."""
    one = [a for n in range(8) for a in drafts(f"p{n}", *[n % 2 == 0] * 4)]
    many = [a for n in range(32) for a in drafts(f"p{n}", n % 2 == 0)]
    wide, narrow = (summarize(some).solve.accuracy for some in (one, many))
    assert (wide.value, wide.n, narrow.value, narrow.n) == (0.5, 32, 0.5, 32)
    assert wide.high - wide.low > 1.6 * (narrow.high - narrow.low)


def test_the_mean_over_benchmarks_is_unweighted() -> None:
    """Guards against a mean over all answers: 1 of 2 and 1 of 4 are 3/8, not 2/6; refined 2 of 2 and 2 of 4 are 3/4."""
    first = answers([(R, R), (W, R)], suite="a")
    second = answers([(R, R), (W, R), (W, W), (W, W)], suite="b")
    mean = mean_of([*first, *second])
    values = [pair(e)[0] for e in (mean.solve, mean.refined, mean.gain, mean.fix, mean.damage)]
    assert values == pytest.approx([3 / 8, 3 / 4, 3 / 8, (1 + 1 / 3) / 2, 0.0])
    assert {k: e.value for k, e in mean.solve_pass_at_k.items()} == {"1": 3 / 8}
    # A mean is undefined where one of its rates is: c has no right draft that could be damaged.
    mean = mean_of([*first, *answers([(W, W)], suite="c")])
    assert math.isnan(pair(mean.damage)[0])
    assert mean.solve.value == 1 / 4


def test_what_a_training_run_logs_without_refinement() -> None:
    """The lengths and cuts of refinements that never were once were those of the drafts."""
    found = evaluation_metrics(drafts("a", R, W))
    assert (found["solve"]["value"], found["solve_tokens"], found["solve_truncated_frac"]) == (0.5, 3, 0)
    undefined = [found[name]["value"] for name in ("refined", "gain", "fix", "damage")]
    assert all(math.isnan(value) for value in (*undefined, found["refine_tokens"], found["refine_truncated_frac"]))
    assert "strategies" not in found


def test_what_a_training_run_logs_of_several_strategies() -> None:
    """Guards against rates of a vote, which looks back on nothing: those of refine are logged, and each one's accuracy."""
    votes = [made("p0", "vote:2", [W], [step("solve", R), step("solve", W, index=1)])]
    found = evaluation_metrics([*votes, *answers([(W, R)])])
    assert (found["fix"]["value"], found["refined"]["value"]) == (1.0, 1.0)
    assert {name: e["value"] for name, e in found["strategies"].items()} == {"vote:2": 0.0, "refine": 1.0}


def test_what_is_undefined_is_null_in_json() -> None:
    """Guards against NaN, which is no JSON, and against 0."""
    record = json.loads(to_json(asdict(summarize(answers([(W, W)])))), parse_constant=pytest.fail)
    bounds = {"at_least": None, "at_most": None}
    assert record["damage"] == {"value": None, "low": None, "high": None, "n": 0, **bounds}
    assert record["fix"]["value"] == 0.0
    assert json.loads(to_json(asdict(summarize(drafts("a", R)))))["refined"] is None


def test_fix_and_damage_rates_by_strategy() -> None:
    """Guards against a fix rate of votes, and answers that `reflect` let stand, as they were right, taken for unseen ones:
    of 3 right ones all stand; of 2 wrong ones one is tried again and right, one over-long."""
    stood = [made(f"r{n}", "reflect", [R], [step("solve", R)]) for n in range(3)]
    again = [step("solve", W), step("reflect"), step("retry", R, draft=0)]
    some = [*stood, made("w", "reflect", [R], again)]
    some.append(made("x", "reflect", [W], [step("solve", W)], notes={"over-long prompts": 1}))
    found = summarize(some)
    assert found.refined is not None
    assert (pair(found.fix), pair(found.damage)) == ((1.0, 1), (0.0, 3))
    assert (found.refined.accuracy.value, found.n_not_refined, found.accuracy.value) == (1.0, 1, 4 / 5)
    vote = summarize([made("p", "vote:2", [R, W], [step("solve", R), step("solve", W, index=1)])])
    assert (vote.refined, vote.fix, vote.accuracy.value, vote.solve.accuracy.n) == (None, None, 0.5, 2)


def test_each_answer_is_paired_with_the_draft_it_revises() -> None:
    """Guards against refinements paired with the first of several drafts: of solve:2+refine one is fixed, one damaged."""
    firsts = [step("solve", R), step("solve", W, index=1)]
    refined = [step("refine", W, draft=0), step("refine", R, index=1, draft=1)]
    found = summarize([made("p", "solve:2+refine", [W, R], [*firsts, *refined], tied=False)])
    assert (pair(found.fix), pair(found.damage)) == ((1.0, 1), (1.0, 1))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 3), (6, 6)])
def test_pass_at_k_of_ties_against_all_subsets(n: int, k: int) -> None:
    """Guards against ties that count as right or wrong: the mean over all k of n of the chance of a right one."""
    shares = [(3 * i % 7) / 7 if i % 3 else float(i % 2) for i in range(1, n + 1)]
    every = [1 - math.prod(1 - share for share in some) for some in combinations(shares, k)]
    assert expected_pass_at_k(shares, k) == pytest.approx(sum(every) / len(every), abs=1e-12)


def test_pass_at_k_of_votes() -> None:
    """A vote that is a tie of two, one right, and one that is wrong: pass@2 is 1/2. Finals of a tie are no two answers."""
    tie = made("p", "vote:2", [R, W], [step("solve", R), step("solve", W, index=1)])
    wrong = made("p", "vote:2", [W], [step("solve", W, index=2)], repeat=1)
    assert final_pass_outcomes([tie, wrong], 2) == [("p", 0.5)]
    assert list(summarize([tie, wrong]).pass_at_k) == ["1", "2"]
