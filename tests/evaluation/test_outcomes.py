"""Outcomes with what was not graded: the lowest and highest rates, against every way in which it could have been graded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.evaluation.answers import Answer
from rethink.evaluation.bounds import Measure, mean
from rethink.evaluation.outcomes import (
    damage_outcomes,
    final_outcomes,
    final_pass_outcomes,
    fix_outcomes,
    gain_outcomes,
    mostly_unrefined,
    refined_outcomes,
    solve_outcomes,
    solve_pass_outcomes,
)
from support.evaluations import answer, drafts, made, step

R, W, N = True, False, None

MEASURES: dict[str, Callable[[Sequence[Answer]], Measure]] = {
    "accuracy": lambda some: partial(final_outcomes, some),
    "solve": lambda some: partial(solve_outcomes, some),
    "refined": lambda some: partial(refined_outcomes, some),
    "fix": lambda some: partial(fix_outcomes, some),
    "damage": lambda some: partial(damage_outcomes, some),
    "gain": lambda some: partial(gain_outcomes, some),
    "solve pass@2": lambda some: partial(solve_pass_outcomes, some, 2),
    "pass@2": lambda some: partial(final_pass_outcomes, some, 2),
}


def every_grading(some: Sequence[Answer]) -> Iterator[list[Answer]]:
    """Return the answers with each combination of verdicts of the replies that were not graded."""
    places = [(a, n) for a, one in enumerate(some) for n, s in enumerate(one.steps) if s.verdict == "not graded"]
    for verdicts in product(("right", "wrong"), repeat=len(places)):
        graded = list(some)
        for (a, n), verdict in zip(places, verdicts, strict=True):
            steps = list(graded[a].steps)
            steps[n] = replace(steps[n], verdict=verdict)
            graded[a] = replace(graded[a], steps=tuple(steps))
        yield graded


def assert_bounds_are_tight(some: Sequence[Answer], name: str) -> None:
    measure = MEASURES[name]
    possible = [mean(measure(graded)(None)) for graded in every_grading(some)]
    defined = [value for value in possible if value == value]
    lowest, highest = (mean(measure(some)(ungraded)) for ungraded in (False, True))
    if lowest == lowest and highest == highest:
        assert (lowest, highest) == pytest.approx((min(defined), max(defined)))
    else:  # some grading leaves no draft to fix or to damage, so the rate has no bounds
        assert len(defined) < len(possible)


VERDICT = st.sampled_from([R, W, N])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(VERDICT, VERDICT), min_size=1, max_size=3), st.sampled_from(sorted(MEASURES)))
def test_the_bounds_are_those_of_every_grading(pairs: list[tuple[bool | None, bool | None]], name: str) -> None:
    """Guards against a rate outside its bounds, and against bounds that no verdicts give."""
    assert_bounds_are_tight([answer("p", *pair, index=n) for n, pair in enumerate(pairs)], name)


TIE = made("p", "vote:2", [R, N], [step("solve", R), step("solve", N, index=1)])
KEPT = made("p", "retry:2", [N], [step("solve", N)])
"""An answer that the strategy kept is the first and the final one: it is neither fixed nor damaged."""


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "some",
    [[TIE, made("p", "vote:2", [W], [step("solve", W, index=2)], repeat=1)], [KEPT, *drafts("q", N, W, R)]],
    ids=["tie", "kept"],
)
def test_ties_and_kept_answers(some: list[Answer], name: str) -> None:
    """Guards against a tie that counts an unknown answer as all of it, and a kept answer with two verdicts."""
    assert_bounds_are_tight(some, name)


def test_by_hand() -> None:
    """(R, R), (R, N), (W, R), (N, R): a fix rate of 1/1 or 2/2; a damage rate of 0/3, or 1/2 if the last draft is wrong."""
    some = [answer(f"p{n}", *pair) for n, pair in enumerate([(R, R), (R, N), (W, R), (N, R)])]
    found = {name: tuple(mean(measure(some)(u)) for u in (None, False, True)) for name, measure in MEASURES.items()}
    assert found["solve"] == pytest.approx((2 / 3, 2 / 4, 3 / 4))
    assert found["refined"] == found["accuracy"] == pytest.approx((1, 3 / 4, 1))
    assert found["fix"] == (1, 1, 1)
    assert found["damage"] == (0, 0, 1 / 2)
    assert found["gain"] == (1 / 2, 0, 1 / 2)


def test_refinements_of_few_drafts_are_an_alarm() -> None:
    """Regression: 63 of 72 drafts were too long to refine, and the rates of the other nine stood there without a word."""
    refined = [answer("a", W, R), answer("b", R, R)]
    too_long = [answer(problem, W, overlong=True) for problem in "cde"]
    assert mostly_unrefined([*refined, *too_long[:2]]) == []
    (alarm,) = mostly_unrefined([*refined, *too_long])
    assert alarm.startswith("most drafts were not refined: 3 of 5 were too long to refine (")
    assert mostly_unrefined([]) == mostly_unrefined(drafts("a", W, R)) == []
