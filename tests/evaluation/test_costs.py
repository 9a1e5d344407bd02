"""What strategies cost, and what they gain over baselines of equal cost; on hand-made outcomes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.evaluation.answers import Answer, AnswerStep
from rethink.evaluation.baselines import AnswersByStrategy, find_baseline
from rethink.evaluation.costs import describe_baseline, mean_baseline_gain, paired_outcomes, with_baseline_gain
from rethink.evaluation.intervals import difference
from rethink.evaluation.summary import Cost, Summary, summarize
from support.evaluations import made, step

YES, NO = [True], [False]


def row_of(name: str, answers: AnswersByStrategy) -> tuple[Summary, Cost]:
    found = with_baseline_gain(summarize(answers[name]), answers)
    return found, found.cost


def solved(n: int, *tokens: int | None) -> list[AnswerStep]:
    return [step("solve", True, n_tokens=t, text=f"{n}") for t in tokens]


def priced(name: str, n_tokens: int, *verdicts: bool | None, suite: str = "s") -> list[Answer]:
    """Answers of a strategy to one problem per verdict, each of so many tokens; the first answer has 10."""
    found: list[Answer] = []
    for n, right in enumerate(verdicts):
        steps = [step("solve", False, 10), step("refine", right, n_tokens - 10)]
        found.append(made(f"p{n}", name, [right], steps, suite=suite))
    return found


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
    found, row = row_of("best:2", outcomes)
    assert found.accuracy.value == pytest.approx(1.5 / 2)
    assert found.accuracy.n == 2
    assert (row.tokens.value, row.depth.value) == pytest.approx(((10 + 18 + 13) / 3, 7 / 3))
    assert (found.n_skipped, found.notes) == (1, {"candidates cut": 3, "x": 7})
    assert (row.baseline, row.n_baseline, row.gain) == ("", None, None)  # no vote that costs as much is there


def test_gain_over_a_mixture() -> None:
    """26 tokens lie at 3/5 between votes of 20 and 30: 2/3 of ours are right, of theirs 1/3 and 1/2, and so 0.4 1/3 + 0.6
    1/2. Guards against a gain over another vote, or of a vote over itself."""
    outcomes = {
        "merge:2": priced("merge:2", 26, True, True, False),
        "vote:2": priced("vote:2", 20, False, False, True),
        "vote:3": [
            *priced("vote:3", 30, True, False),
            made("p2", "vote:3", [True, False], [step("solve", False, 20), *solved(1, 5, 5)], tied=True),
        ],
        "solve": priced("solve", 10, True, True, True),
    }
    outcomes["vote:3"][2] = replace(outcomes["vote:3"][2], n_tokens=30)
    found, row = row_of("merge:2", outcomes)
    assert row.gain is not None
    assert row.gain.value == pytest.approx(2 / 3 - (0.4 / 3 + 0.6 / 2))
    assert (row.baseline, describe_baseline(row)) == ("vote", "vote of 2.6")
    assert row.n_baseline == pytest.approx(2.6)
    assert (found.accuracy, found.cost.tokens.value) == (summarize(outcomes["merge:2"]).accuracy, 26)
    for name in ("vote:3", "vote:2", "solve"):
        _, row = row_of(name, outcomes)
        assert (row.baseline, row.n_baseline, row.gain, describe_baseline(row)) == ("", None, None, "")


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (("vote", 1.84, False), "vote of 1.8"),
        (("tries", 2.06, False), "2.1 tries"),
        (("tries", 1.0, False), "one answer"),
        (("tries", 64.0, True), "64.0 tries, fewer tokens"),
        (("", None, False), ""),
    ],
)
def test_baselines_in_words(cost: tuple[str, float | None, bool], shown: str) -> None:
    """Guards against a table that does not say what a gain is over."""
    kind, n, cheaper = cost
    row = replace(summarize([]).cost, baseline=kind, n_baseline=n, baseline_is_cheaper=cheaper)
    assert describe_baseline(row) == shown


def test_a_gain_is_on_shared_problems_alone() -> None:
    """Guards against a gain by skipping what is hard: p2 was skipped here, p3 there, and p4 was not graded once."""
    ours = [made("p0", "refine", YES), made("p1", "refine", NO), made("p2", "refine", ()), made("p3", "refine", NO)]
    ours += [made("p4", "refine", YES, repeat=0), made("p4", "refine", [None], repeat=1)]
    theirs = [made("p0", "vote:2", NO), made("p1", "vote:2", NO), made("p2", "vote:2", YES), made("p3", "vote:2", ())]
    theirs += [made("p4", "vote:2", [True, False], repeat=0), made("p4", "vote:2", NO, repeat=1)]
    answers = {"refine": [replace(a, n_tokens=20) for a in ours], "vote:2": [replace(a, n_tokens=20) for a in theirs]}
    baseline = find_baseline("refine", answers)
    assert baseline is not None
    pairs = paired_outcomes(answers["refine"], baseline)
    assert pairs == ([("p0", 1), ("p1", 0), ("p4", 1)], [("p0", 0), ("p1", 0), ("p4", 0.5), ("p4", 0)])
    _, row = row_of("refine", answers)
    # Ours is 2 of 4 if the reply to p4 is wrong, and 3 of 4 if it is right; theirs is 0.5 of 4.
    assert row.gain is not None
    assert row.gain == replace(difference(*pairs), at_least=row.gain.at_least, at_most=row.gain.at_most)
    assert (row.gain.at_least, row.gain.at_most) == pytest.approx((2 / 4 - 0.5 / 4, 3 / 4 - 0.5 / 4))
    assert row.gain.value == pytest.approx(2 / 3 - 0.5 / 4)
    assert row.gain.n == 3


def test_bounds_of_a_mixture() -> None:
    """Half of the votes' weight is on each; the larger vote's answer to p1 was not graded: the gain may be 0 or -1/4."""
    outcomes = {
        "refine": priced("refine", 25, True, False),
        "vote:2": priced("vote:2", 20, True, False),
        "vote:3": priced("vote:3", 30, True, None),
    }
    _, row = row_of("refine", outcomes)
    assert row.gain is not None
    assert (row.gain.value, row.gain.at_least, row.gain.at_most) == (0, -0.25, 0)


def test_means_over_benchmarks_are_unweighted() -> None:
    """Gains 1/2 - 0 and 1 - 1: a mean of 1/4, though the first benchmark has more problems."""
    first = priced("refine", 20, True, False, True, False)
    vote = priced("vote:2", 20, False, False, False, False)
    second, other = priced("refine", 20, True, suite="t"), priced("vote:2", 20, True, suite="t")
    gain = mean_baseline_gain("refine", [{"refine": first, "vote:2": vote}, {"refine": second, "vote:2": other}])
    assert gain is not None
    assert gain.value == pytest.approx(1 / 4)
    assert mean_baseline_gain("refine", [{"refine": first, "vote:2": vote}, {"refine": second}]) is None
