"""What strategies cost, which vote costs as much, and what they gain over it; on hand-made outcomes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.evaluation.answers import Answer, AnswerStep
from rethink.evaluation.costs import (
    AnswersByStrategy,
    equal_cost_votes,
    find_name,
    mean_vote_gain,
    missing_votes,
    paired_outcomes,
    vote_strategy,
    with_vote_gain,
)
from rethink.evaluation.intervals import difference
from rethink.evaluation.summary import Cost, Summary, summarize
from rethink.strategies import parse_all
from support.evaluations import made, step

YES, NO = [True], [False]


def row_of(name: str, answers: AnswersByStrategy, n_vote: int | None) -> tuple[Summary, Cost]:
    found = with_vote_gain(summarize(answers[name]), n_vote, answers)
    return found, found.cost


def solved(n: int, *tokens: int | None) -> list[AnswerStep]:
    return [step("solve", True, n_tokens=t, text=f"{n}") for t in tokens]


def test_votes_of_equal_cost_by_hand() -> None:
    """A first answer has 10 tokens; strategies have 10, 26 and 4 on average, so 1, 3 and, as no vote has none, 1."""
    outcomes = {
        "solve": [made("p0", "solve", YES, solved(0, 8)), made("p1", "solve", YES, solved(1, 12))],
        "refine": [
            made("p0", "refine", YES, [*solved(0, 8), step("refine", n_tokens=15)]),
            made("p1", "refine", YES, [*solved(1, 12), step("refine", n_tokens=17)]),
        ],
        "socratic:2": [made("p0", "socratic:2", YES, [step("socratic", n_tokens=4)])],
    }
    assert equal_cost_votes(outcomes) == {"solve": 1, "refine": 3, "socratic:2": 1}


def test_strategies_of_unknown_cost_have_no_equal_vote() -> None:
    """Guards against an unknown number of tokens that counts as none; where some are known, these are the mean."""
    outcomes = {
        "solve": [made("p0", "solve", YES, solved(0, 10)), made("p1", "solve", YES, solved(1, None))],
        "refine": [made("p0", "refine", YES, [*solved(0, 10), step("refine", n_tokens=None)])],
        "vote:3": [made("p0", "vote:3", YES, solved(0, 10, 10, 13))],
    }
    assert equal_cost_votes(outcomes) == {"solve": 1, "vote:3": 3}  # 33 / (53 / 5)
    for n_tokens in (None, 0):
        assert equal_cost_votes({"solve": [made("p0", "solve", YES, solved(0, n_tokens))]}) == {}


def test_skipped_problems_cost_nothing_and_are_in_no_mean() -> None:
    """Three skipped of four once made 30 tokens 7.5, and the vote of equal cost one of one answer."""
    skipped = [made(f"p{n}", "merge:2", ()) for n in range(1, 4)]
    outcomes = {"merge:2": [made("p0", "merge:2", YES, [*solved(0, 10, 10), step("merge", n_tokens=10)]), *skipped]}
    assert equal_cost_votes(outcomes) == {"merge:2": 3}
    found, row = row_of("merge:2", outcomes, None)
    assert (row.tokens.value, row.prompt_tokens.value, row.depth.value) == (30, 5, 1)
    assert found.n_skipped == 3


def test_missing_votes() -> None:
    """Guards against a vote that is asked twice under another name, and a strategy as cheap as one answer without any."""
    there = parse_all("solve,merge:2,solve:3+vote")
    wanted = missing_votes([3, 1, 11, 2, 2], there)
    assert [s.name for s in wanted] == ["vote:2", "vote:11"]
    assert [s.name for s in missing_votes([1], parse_all("reflect"))] == ["solve"]
    assert missing_votes([], there) == []


def test_votes_by_any_name() -> None:
    """Guards against a baseline that is there under another name but not found."""
    outcomes: dict[str, list[Answer]] = {"refine": [], "solve:1": [], "solve:3+vote": [], "vote:2+refine": []}
    assert [find_name(vote_strategy(n), outcomes) for n in (1, 2, 3)] == ["solve:1", "", "solve:3+vote"]


def test_a_row_by_hand() -> None:
    """Means are over problems, a skipped one left out; counts of what was left out are sums."""
    outcomes = {
        "best:2": [
            made(
                "p0", "best:2", YES, [*solved(0, 3, 5), step("rate", n_tokens=2)], depth=2, notes={"candidates cut": 2}
            ),
            made("p1", "best:2", [True, False, None], solved(1, 7, 11), depth=3, notes={"candidates cut": 1, "x": 5}),
            made("p2", "best:2", [None], solved(2, 13), depth=2),
            made("p3", "best:2", (), depth=0, notes={"x": 2}),
        ],
        "solve": [made("p0", "solve", NO, solved(0, 3))],
    }
    found, row = row_of("best:2", outcomes, None)
    assert found.accuracy.value == pytest.approx(1.5 / 2)
    assert found.accuracy.n == 2
    assert (row.tokens.value, row.depth.value) == pytest.approx(((10 + 18 + 13) / 3, 7 / 3))
    assert (found.n_skipped, found.notes) == (1, {"candidates cut": 3, "x": 7})
    assert (row.n_vote, row.gain) == (None, None)


def test_gain_over_the_vote_of_that_size() -> None:
    """Guards against a gain over another vote, or of the vote over itself."""
    outcomes = {
        "merge:2": [made("p0", "merge:2", YES), made("p1", "merge:2", YES), made("p2", "merge:2", NO)],
        "vote:2": [made("p0", "vote:2", NO), made("p1", "vote:2", NO), made("p2", "vote:2", NO)],
        "vote:3": [made("p0", "vote:3", YES), made("p1", "vote:3", NO), made("p2", "vote:3", [True, False])],
        "solve": [made("p0", "solve", NO), made("p1", "solve", YES), made("p2", "solve", YES)],
    }
    found = {n: row_of("merge:2", outcomes, n)[1] for n in (1, 2, 3)}
    gains = {n: row.gain.value for n, row in found.items() if row.gain is not None}
    assert gains == pytest.approx({1: 0.0, 2: 2 / 3, 3: 1 / 6})
    assert [row.n_vote for row in found.values()] == [1, 2, 3]
    for name, n in (("vote:3", 3), ("solve", 1), ("merge:2", 11)):
        _, row = row_of(name, outcomes, n)
        assert (row.n_vote, row.gain) == (None, None)


def test_a_gain_is_on_shared_problems_alone() -> None:
    """Guards against a gain by skipping what is hard: p2 was skipped here, p3 there, and p4 was not graded once."""
    ours = [made("p0", "refine", YES), made("p1", "refine", NO), made("p2", "refine", ()), made("p3", "refine", NO)]
    ours += [made("p4", "refine", YES, repeat=0), made("p4", "refine", [None], repeat=1)]
    theirs = [made("p0", "vote:2", NO), made("p1", "vote:2", NO), made("p2", "vote:2", YES), made("p3", "vote:2", ())]
    theirs += [made("p4", "vote:2", [True, False], repeat=0), made("p4", "vote:2", NO, repeat=1)]
    pairs = paired_outcomes(ours, theirs)
    assert pairs == ([("p0", 1), ("p1", 0), ("p4", 1)], [("p0", 0), ("p1", 0), ("p4", 0.5), ("p4", 0)])
    _, row = row_of("refine", {"refine": ours, "vote:2": theirs}, 2)
    # Ours is 2 of 4 if the reply to p4 is wrong, and 3 of 4 if it is right; theirs is 0.5 of 4.
    assert row.gain is not None
    assert row.gain == replace(difference(*pairs), at_least=row.gain.at_least, at_most=row.gain.at_most)
    assert (row.gain.at_least, row.gain.at_most) == pytest.approx((2 / 4 - 0.5 / 4, 3 / 4 - 0.5 / 4))
    assert row.gain.value == pytest.approx(2 / 3 - 0.5 / 4)
    assert row.gain.n == 3


def test_means_over_benchmarks_are_unweighted() -> None:
    """Gains 1/2 - 0 and 1 - 1: a mean of 1/4, though the first benchmark has more problems."""
    first = [made("p0", "refine", YES), made("p1", "refine", NO), made("p2", "refine", YES), made("p3", "refine", NO)]
    vote = [made(f"p{n}", "vote:2", NO) for n in range(4)]
    second, other = [made("p0", "refine", YES, suite="t")], [made("p0", "vote:2", YES, suite="t")]
    suites = [{"refine": first, "vote:2": vote}, {"refine": second, "vote:2": other}]
    gain = mean_vote_gain("refine", suites, [{"refine": 2}, {"refine": 2}])
    assert gain is not None
    assert gain.value == pytest.approx(1 / 4)
    assert mean_vote_gain("refine", suites, [{"refine": 2}, {"refine": 3}]) is None
