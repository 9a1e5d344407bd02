"""The Refinement Gap and its controls, on hand-made outcomes, and the interval of a relative difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rethink.evaluation import intervals
from rethink.evaluation.evaluate import EvaluationSpec, answer_problems
from rethink.evaluation.gap import Gap, control_votes, merge_size, refinement_gap
from rethink.evaluation.intervals import BOOTSTRAP_FROM, difference, rate, relative_difference
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.strategies import Setup, parse, parse_all
from rethink.types import Prompt
from support.evaluations import Case, case, made, problem, step

YES, NO = [True], [False]


def gap_of(cases: Sequence[Case]) -> Gap:
    k = len(cases[0][0].firsts)
    return refinement_gap(k, *zip(*cases, strict=True))


# Right of two candidates: both, one (a tie, which counts half), none. The third candidate is right each time: it breaks
# the tie, and where the first two are wrong in different ways it makes a tie of three.
THREE = [
    case("p0", [True, True, True], YES, YES, YES),
    case("p1", [True, False, True], YES, [True, False], YES),
    case("p2", [False, False, True], NO, [False, False], [False, False, True]),
]


# ------------------------------------------------------------------------------------------------------------- rates


def test_the_example_of_the_specification() -> None:
    """Votes 1, 0.5, 0 and merged 1, 1, 0: 2/3 - 1/2 = +16.67 points, and over 1/2 that is +33.3%."""
    found = gap_of(THREE)
    assert found.k == 2
    assert (found.merged.value, found.vote.value) == pytest.approx((2 / 3, 1 / 2))
    assert found.gap.value == pytest.approx(1 / 6)
    assert found.relative.value == pytest.approx(1 / 3)
    assert (found.gap.percent("+")[:5], found.relative.percent("+")) == ("+16.7", "+33.3")


def test_the_larger_vote_by_hand() -> None:
    """Votes of three are right by 1, 1 and 1/3, so 7/9; merged 6/9."""
    found = gap_of(THREE)
    assert found.larger_vote.value == pytest.approx(7 / 9)
    assert found.gap_to_larger_vote.value == pytest.approx(-1 / 9)


def test_strata_by_hand() -> None:
    """Guards against strata of the larger vote's candidates, and against votes rounded within a stratum."""
    found = gap_of([*THREE, case("p3", [False, True, False], NO, [True, False], NO)])
    assert [(s.n_right, s.n, s.merged.value, s.vote.value) for s in found.strata] == [
        (0, 1, 0.0, 0.0),
        (1, 2, 0.5, 0.5),
        (2, 1, 1.0, 1.0),
    ]
    assert sum(s.n for s in found.strata) == 4
    assert found.n_not_graded == 0


def test_all_wrong_beside_one_fresh_answer() -> None:
    """Of four cases three have no right candidate; one of these is right merged, and two have a right third answer."""
    cases = [
        THREE[0],
        case("p1", [False, False, True], YES, NO, NO),
        case("p2", [False, False, True], NO, NO, NO),
        case("p3", [False, False, False], NO, NO, NO),
    ]
    found = gap_of(cases)
    shares = (found.all_wrong.value, found.rescued.value, found.fresh.value, found.rescue.value)
    assert shares == pytest.approx((3 / 4, 1 / 3, 2 / 3, -1 / 3))
    assert (found.all_wrong.n, found.rescued.n, found.fresh.n) == (4, 3, 3)


def test_no_case_all_wrong_leaves_its_rates_undefined() -> None:
    """Guards against 0% rescued where there was nothing to rescue."""
    found = gap_of(THREE[:2])
    assert found.all_wrong.value == 0
    assert all(math.isnan(x.value) for x in (found.rescued, found.fresh, found.rescue, found.strata[0].merged))
    assert found.rescue.percent("+") == "undefined"


def test_a_vote_that_is_never_right_has_no_relative_gap() -> None:
    """Guards against a division by zero, and against an infinite gain."""
    found = gap_of([case("p0", [False, False, False], YES, NO, NO), case("p1", [False, False, True], NO, NO, NO)])
    assert found.gap.value == 0.5
    assert (math.isnan(found.relative.value), found.relative.percent()) == (True, "undefined")


def test_repeats_are_cases_of_one_problem() -> None:
    """Two repeats of two problems: four cases, of which two candidates' sets are all wrong; gaps are paired by problem,
    so their number is that of problems."""
    cases = [
        case("p0", [True, True, True], YES, YES, YES, repeat=0),
        case("p0", [False, False, True], YES, NO, NO, repeat=1),
        case("p1", [False, False, False], NO, NO, NO, repeat=0),
        case("p1", [True, False, True], NO, [True, False], YES, repeat=1),
    ]
    found = gap_of(cases)
    assert [s.n for s in found.strata] == [2, 1, 1]
    assert (found.merged.n, found.gap.n) == (4, 2)
    assert found.gap.value == pytest.approx(2 / 4 - 1.5 / 4)


# --------------------------------------------------------------------------------------------------- what is left out


def test_candidates_that_were_not_graded_are_counted_and_in_no_stratum() -> None:
    """Guards against a failed verifier that counts as a wrong candidate and fills the stratum of none right."""
    unsure = case("p3", [None, False, True], YES, NO, NO)
    found = gap_of([*THREE, unsure])
    assert (found.n_not_graded, sum(s.n for s in found.strata), found.all_wrong.n) == (1, 3, 3)
    assert found.all_wrong.value == pytest.approx(1 / 3)
    assert found.merged.n == 4  # the answer itself was graded


def test_a_fresh_answer_that_was_not_graded_is_in_no_mean() -> None:
    """Guards against a failed verifier that makes the fresh answer wrong, and against rates over different cases."""
    found = gap_of([THREE[2], case("p3", [False, False, None], NO, NO, NO)])
    assert (found.fresh.value, found.fresh.n, found.rescued.n) == (1.0, 1, 1)


def test_answers_that_were_not_graded_and_skipped_problems_are_left_out() -> None:
    """Guards against pairs of which one side is missing: both sides leave."""
    unsure = case("p3", [True, True, True], [None], YES, YES)
    skipped = (made("p4", "merge:2", ()), made("p4", "vote:2", ()), made("p4", "vote:3", ()))
    missing = case("p5", [True, True, True], YES, YES, YES)
    merged, vote, more = zip(*[*THREE, unsure, skipped, missing], strict=True)
    assert refinement_gap(2, merged, vote, more[:-1]) == gap_of(THREE)


def test_candidates_too_long_to_merge_are_left_out() -> None:
    """Over-long candidates stay as they are, all of them; their mean is no merged answer, but once counted as one."""
    merged, vote, more = case("p3", [True, False, True], [True, False], [True, False], YES)
    unmerged = (replace(merged, steps=merged.steps[:2], finals=(0, 1), notes={"over-long prompts": 1}), vote, more)
    found = gap_of([*THREE, unmerged])
    assert found.n_overlong == 1
    assert replace(found, n_overlong=0) == gap_of(THREE)


def test_nothing_to_compare() -> None:
    """Guards against a crash where all was skipped."""
    found = refinement_gap(2, [], [], [])
    assert math.isnan(found.gap.value)
    assert [s.n for s in found.strata] == [0, 0, 0]


# ----------------------------------------------------------------------------------------------------- the candidates


def other_text(one: Case) -> Case:
    vote = replace(one[1], steps=(one[1].steps[0], replace(one[1].steps[1], text="another")))
    return one[0], vote, one[2]


def other_seed(one: Case) -> Case:
    more = replace(one[2], steps=(replace(one[2].steps[0], seed="1" * 16), *one[2].steps[1:]))
    return one[0], one[1], more


def other_order(one: Case) -> Case:
    return replace(one[0], steps=(*reversed(one[0].steps[:2]), one[0].steps[2])), one[1], one[2]


def two_more(one: Case) -> Case:
    return one[0], one[1], replace(one[2], steps=(*one[2].steps, step("solve", True)))


def none_more(one: Case) -> Case:
    return one[0], one[1], replace(one[2], steps=one[2].steps[:2], finals=(1,))


@pytest.mark.parametrize("spoil", [other_text, other_seed, other_order, two_more, none_more])
def test_other_candidates_are_refused(spoil: object) -> None:
    """Guards against a gap between other sets of candidates, and a larger vote that is not larger by exactly one."""
    assert callable(spoil)
    with pytest.raises(ValueError, match="p1: merge and vote need the same 2 candidates, and the larger vote one more"):
        gap_of([THREE[0], spoil(THREE[1]), THREE[2]])


def test_k_is_that_of_the_candidates() -> None:
    """Guards against outcomes of merge:2 that are reported as merge:3."""
    with pytest.raises(ValueError, match="same 3 candidates"):
        refinement_gap(3, *zip(*THREE, strict=True))


def test_which_strategies_have_a_gap_and_what_it_needs() -> None:
    """Guards against a gap of merged answers that were refined besides, and against votes that are asked twice."""
    names = {"merge:3": 3, "merge": 4, "solve:5+merge": 5, "merge:2+refine": 0, "solve:2+refine+merge": 0, "vote:3": 0}
    assert {name: merge_size(parse(name)) for name in names} == names
    asked = parse_all("merge:2,solve:3+merge,solve:3+vote,solve")
    assert [s.name for s in control_votes(asked)] == ["vote:2", "vote:4"]
    assert control_votes(parse_all("solve,refine,vote:3")) == []


def test_strategies_that_were_run_have_the_candidates_that_the_gap_needs() -> None:
    """Guards against strategies that draw candidates of their own. The policy never gives the same reply twice, as an
    endpoint may; k + 1 generations per merged answer, and exactly one more candidate in the larger vote."""
    count = iter(range(1000))

    def script(prompt: Prompt, index: int, version: int) -> str:
        return f"{'right' if next(count) % 3 else 'wrong'} {next(count)}"

    one = replace(problem("p0"), extract_answer=lambda text: text.split()[0], equal_answers=str.__eq__)
    strategies = [*(asked := parse_all("merge:3")), *control_votes(asked)]
    outcomes = answer_problems(
        Setup(FakePolicy(script), Prompts()), EvaluationSpec([one], strategies, repeats=2), [one]
    )
    sides = {s.name: [o for o in outcomes if o.strategy == s.name] for s in strategies}
    assert {name: [len(o.steps) for o in side] for name, side in sides.items()} == {
        "merge:3": [4, 4],
        "vote:3": [3, 3],
        "vote:4": [4, 4],
    }
    found = refinement_gap(3, *sides.values())
    assert found.merged.n == 2
    assert len({s.text for o in sides["vote:4"] for s in o.steps}) == 8


# --------------------------------------------------------------------------------------------------- statistics of it


def test_known_chances_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged answers are right by a chance of 0.06 where no candidate is, fresh ones by 0.03: within three standard
    errors over some thousands of draws, and with an interval as wide as it must be. Fewer resamples do for that."""
    monkeypatch.setattr(intervals, "RESAMPLES", 997)
    n, draws = 3001, np.random.default_rng(5)
    right_P_3 = draws.random((n, 3)) < 0.03
    merged_P = np.where(right_P_3[:, :2].any(axis=1), draws.random(n) < 0.9, draws.random(n) < 0.06)
    cases = [
        case(f"p{i}", [bool(r) for r in row], [bool(merged)], [bool(r) for r in row[:2]], [bool(r) for r in row])
        for i, (row, merged) in enumerate(zip(right_P_3, merged_P, strict=True))
    ]
    found = gap_of(cases)
    n_wrong = found.strata[0].n
    assert found.all_wrong.value == pytest.approx(0.97**2, abs=3 * math.sqrt(0.97**2 * (1 - 0.97**2) / n))
    assert found.rescued.value == pytest.approx(0.06, abs=3 * math.sqrt(0.06 * 0.94 / n_wrong))
    assert found.fresh.value == pytest.approx(0.03, abs=3 * math.sqrt(0.03 * 0.97 / n_wrong))
    error = math.sqrt((0.06 * 0.94 + 0.03 * 0.97) / n_wrong)
    assert found.rescue.value == pytest.approx(0.03, abs=3 * error)
    assert found.rescue.high - found.rescue.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert (found.rescue.low > 0, found.rescue.p < 0.01, found.strata[0].vote.value) == (True, True, 0.0)


def outcomes_of(values_P: Iterable[float]) -> list[tuple[str, float]]:
    return [(f"p{i}", float(x)) for i, x in enumerate(values_P)]


def test_a_relative_difference_against_an_independent_bootstrap() -> None:
    """Guards against limits of the gap in points, or of the first rate over the second. The expanded percentiles and the
    resampling are done anew, with scipy; 20,011 resamples leave the limits uncertain by some 3% of a standard error."""
    n, draws = 211, np.random.default_rng(2)
    ours_P = (draws.random(n) < 0.5).astype(float)
    theirs_P = np.where(draws.random(n) < 0.6, ours_P, draws.random(n) < 0.3)
    found = relative_difference(outcomes_of(ours_P), outcomes_of(theirs_P))
    assert found.value == pytest.approx((ours_P.mean() - theirs_P.mean()) / theirs_P.mean())
    rows = draws.integers(0, n, (20_011, n))
    ratios = ours_P[rows].mean(axis=1) / theirs_P[rows].mean(axis=1) - 1
    tail = stats.norm.cdf(stats.t.ppf(0.025, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * ratios.std())
    assert found.n == n
    points = difference(outcomes_of(ours_P), outcomes_of(theirs_P))
    assert found.low - points.low > 0.4 * ratios.std()  # the test can tell


def test_a_relative_difference_of_arms_that_are_proportional_is_certain() -> None:
    """Every resample of the first arm is 3/2 of the second's: +50%, with no room either side."""
    base_P = [0.0, 0.25, 0.5] * 67
    found = relative_difference(outcomes_of([1.5 * x for x in base_P]), outcomes_of(base_P))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_relative_difference_is_undefined_over_nothing_and_without_limits_over_few() -> None:
    """Guards against a bootstrap of a handful of problems; the value stands."""
    many = BOOTSTRAP_FROM
    assert many == 200
    ours, theirs = outcomes_of([1, 1, 0] * many), outcomes_of([1, 0, 0] * many)
    few = relative_difference(ours[: many - 1], theirs[: many - 1])
    # 199 problems: 133 right against 67.
    assert few.value == pytest.approx(66 / 67)
    assert (math.isnan(few.low), math.isnan(few.high), few.percent("+")) == (True, True, "+98.5")
    assert not math.isnan(relative_difference(ours[:many], theirs[:many]).low)
    for nothing in (
        relative_difference(ours, outcomes_of([0] * len(ours))),
        relative_difference([], []),
        relative_difference(ours, []),
    ):
        assert (math.isnan(nothing.value), nothing.n) == (True, 0)


def test_resamples_without_a_right_vote_are_left_out() -> None:
    """One right vote among 211 problems: a third of the resamples lack it, and would make the limits infinite."""
    found = relative_difference(outcomes_of([1] * 11 + [0] * 200), outcomes_of([1] + [0] * 210))
    assert found.value == pytest.approx(10)
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


def test_the_gap_is_that_of_the_rates() -> None:
    """Guards against a gap whose parts come from different cases."""
    found = gap_of(THREE)
    assert found.merged == rate([("p0", 1.0), ("p1", 1.0), ("p2", 0.0)])
    assert found.gap == difference(outcomes_of([1, 1, 0]), outcomes_of([1, 0.5, 0]))
