"""The Refinement Gap and its controls, on hand-made answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rethink.evaluation.evaluate import EvaluationSpec, answer_problems
from rethink.evaluation.gap import Gap, control_votes, merge_size, refinement_gap
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


def test_gap_by_hand() -> None:
    """Votes 1, 0.5, 0 and merged 1, 1, 0: 2/3 - 1/2 = +16.67 points, and over 1/2 that is +33.3%."""
    found = gap_of(THREE)
    assert found.k == 2
    assert (found.merged.value, found.vote.value) == pytest.approx((2 / 3, 1 / 2))
    assert found.gap.value == pytest.approx(1 / 6)
    assert found.relative.value == pytest.approx(1 / 3)
    # Votes of three are right by 1, 1 and 1/3, so 7/9; merged 6/9.
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


def test_all_wrong_against_one_fresh_answer() -> None:
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


def test_rates_over_no_cases_are_undefined() -> None:
    """Guards against 0% rescued where there was nothing to rescue."""
    found = gap_of(THREE[:2])
    assert found.all_wrong.value == 0
    assert all(math.isnan(x.value) for x in (found.rescued, found.fresh, found.rescue, found.strata[0].merged))
    assert found.rescue.percent("+") == "undefined"


def test_candidates_that_were_not_graded_are_counted_and_in_no_stratum() -> None:
    """Guards against a failed verifier that counts as a wrong candidate and fills the stratum of none right."""
    unsure = case("p3", [None, False, True], YES, NO, NO)
    found = gap_of([*THREE, unsure])
    assert (found.n_not_graded, sum(s.n for s in found.strata), found.all_wrong.n) == (1, 3, 3)
    assert found.all_wrong.value == pytest.approx(1 / 3)
    assert found.merged.n == 4  # the answer itself was graded
    found = gap_of([THREE[2], case("p3", [False, False, None], NO, NO, NO)])
    assert (found.fresh.value, found.fresh.n, found.rescued.n) == (1.0, 1, 1)


def test_answers_that_were_not_graded_and_skipped_problems_are_left_out() -> None:
    """Guards against pairs of which one side is missing: both sides leave."""
    unsure = case("p3", [True, True, True], [None], YES, YES)
    skipped = (made("p4", "merge:2", ()), made("p4", "vote:2", ()), made("p4", "vote:3", ()))
    missing = case("p5", [True, True, True], YES, YES, YES)
    merged, vote, more = zip(*[*THREE, unsure, skipped, missing], strict=True)
    found = refinement_gap(2, merged, vote, more[:-1])
    assert (found.merged.value, found.merged.n, found.gap.value) == pytest.approx((2 / 3, 3, 1 / 6))
    assert (found.strata, found.all_wrong, found.n_not_graded) == (gap_of(THREE).strata, gap_of(THREE).all_wrong, 1)
    # The fourth merged answer is wrong or right; its vote is right.
    assert (found.merged.at_least, found.merged.at_most) == (2 / 4, 3 / 4)
    assert (found.gap.at_least, found.gap.at_most) == pytest.approx((2 / 4 - 2.5 / 4, 3 / 4 - 2.5 / 4))
    assert (found.vote.at_least, found.larger_vote.at_most) == (None, None)


def test_candidates_too_long_to_merge_are_left_out() -> None:
    """Over-long candidates stay as they are, all of them; their mean is no merged answer, but once counted as one."""
    merged, vote, more = case("p3", [True, False, True], [True, False], [True, False], YES)
    unmerged = (replace(merged, steps=merged.steps[:2], finals=(0, 1), notes={"over-long prompts": 1}), vote, more)
    found = gap_of([*THREE, unmerged])
    assert found.n_overlong == 1
    assert replace(found, n_overlong=0) == gap_of(THREE)


def other_seed(one: Case) -> Case:
    more = replace(one[2], steps=(replace(one[2].steps[0], seed="1" * 16), *one[2].steps[1:]))
    return one[0], one[1], more


def two_more(one: Case) -> Case:
    return one[0], one[1], replace(one[2], steps=(*one[2].steps, step("solve", True)))


@pytest.mark.parametrize("spoil", [other_seed, two_more])
def test_other_candidates_are_refused(spoil: Callable[[Case], Case]) -> None:
    """Guards against a gap between other sets of candidates, and a larger vote that is not larger by exactly one."""
    with pytest.raises(ValueError, match="p1: merge and vote need the same 2 candidates, and the larger vote one more"):
        gap_of([THREE[0], spoil(THREE[1]), THREE[2]])


def test_which_strategies_have_a_gap_and_what_it_needs() -> None:
    """Guards against a gap of merged answers that were refined besides, and against votes that are asked twice."""
    names = {"merge:3": 3, "merge": 4, "solve:5+merge": 5, "merge:2+refine": 0, "solve:2+refine+merge": 0, "vote:3": 0}
    assert {name: merge_size(parse(name)) for name in names} == names
    asked = parse_all("merge:2,solve:3+merge,solve:3+vote,solve")
    assert [s.name for s in control_votes(asked)] == ["vote:2", "vote:4"]
    assert control_votes(parse_all("solve,refine,vote:3")) == []


def test_strategies_share_the_candidates_for_the_gap() -> None:
    """Guards against strategies that sample separate candidates. The policy never gives the same reply twice."""
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
