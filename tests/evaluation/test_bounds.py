"""The bounds that ungraded replies leave: when they are printed, and the kinds of reasons."""

from __future__ import annotations

import math

import pytest

from rethink.evaluation.bounds import bounded_rate, count_kinds, kind_of, open_signs
from rethink.evaluation.intervals import (
    UNDEFINED,
    Difference,
    Estimate,
    clustered_rate,
    macro_average,
    with_mean_bounds,
)

NAN = math.nan


def binomial_rate(n_right: int, n: int, n_ungraded: int = 0) -> Estimate:
    """One answer to each problem."""
    return clustered_rate({(1, 1): n_right, (0, 1): n - n_right, (0, 0): 3}, n_ungraded)


def test_the_bounds_by_hand() -> None:
    """612 of 1000 right, and 22 more not graded: 612 and 634 of 1022."""
    found = binomial_rate(612, 1000, 22)
    assert found.percent() == "61.2 [58.1, 64.2] (59.9 to 62.0)"
    assert binomial_rate(612, 1000).percent() == "61.2 [58.1, 64.2]"
    assert binomial_rate(0, 0, 3).percent() == "undefined (0.0 to 100.0)"


def test_bounds_only_where_they_say_something() -> None:
    """Guards against noise where everything was graded, and against "nan" in a table."""
    outcomes = {None: [("p", 1.0)], False: [("p", 1.0), ("q", 0.0)], True: [("p", 1.0), ("q", 1.0)]}
    assert bounded_rate(outcomes.__getitem__).percent().endswith(" (50.0 to 100.0)")
    assert bounded_rate(lambda _: [("p", 1.0)]).at_least is None
    assert bounded_rate(lambda ungraded: [("p", 1.0)] if ungraded else []).percent() == "undefined"


def test_a_mean_has_the_mean_bounds() -> None:
    """Two suites, one of which was graded throughout: (0.5 + 0.8) / 2 and (0.9 + 0.8) / 2."""
    one, other = binomial_rate(5, 6, 4), binomial_rate(8, 10)
    found = macro_average([one, other])
    assert (found.at_least, found.at_most) == pytest.approx((0.65, 0.85))
    assert macro_average([other, other]).at_least is None
    assert with_mean_bounds(UNDEFINED, [UNDEFINED, one]) is UNDEFINED
    assert macro_average([binomial_rate(0, 0, 3), other]).percent() == "undefined (40.0 to 90.0)"


@pytest.mark.parametrize(
    ("least", "most", "is_open"),
    [(None, None, False), (0.01, 0.05, False), (-0.05, -0.01, False), (-0.01, 0.05, True), (0.0, 0.05, True)],
)
def test_a_sign_is_open_if_ungraded_replies_decide_it(least: float | None, most: float | None, is_open: bool) -> None:
    """Guards against a gain that is announced although the replies left out could turn it into a loss."""
    gap = Difference(0.02, 0.01, 0.03, 10, 0.01, at_least=least, at_most=most)
    assert gap.sign_is_open == is_open
    wanted = "the sign depends on the replies that were not graded: gain, s" if is_open else ""
    assert open_signs({"gain, s": gap, "fix": None}) == wanted


KINDS = {
    "the gold answer cannot be read: \\foo": "the gold answer cannot be read",
    "the gold answer has 700 characters": "the gold answer cannot be read",
    "the answer cannot be read: its process ended": "the answer cannot be read",
    "no verdict within 5 s": "timed out",
    "own:check: no verdict within 5 s": "timed out",
    "own:check: not called, because it gave no verdict in time 3 times in a row": "timed out",
    "own:check failed: KeyError: 'the gold answer'": "error",
    "own:check: its process ended (a crash, an exit, or out of memory)": "error",
    "the process that compared the answer ended": "error",
    "equal for positive values only": "other reasons",
    "": "other reasons",
}


@pytest.mark.parametrize(("reason", "kind"), KINDS.items())
def test_the_kind_of_a_reason(reason: str, kind: str) -> None:
    """Guards against a hundred reasons that differ in a detail, of which only three are printed."""
    assert kind_of(reason) == kind


def test_kinds_are_counted_most_frequent_first() -> None:
    """Guards against the order of the first reasons."""
    reasons = {"odd": 2, "the answer cannot be read: a": 2, "the answer cannot be read: b": 1}
    assert list(count_kinds(reasons).items()) == [("the answer cannot be read", 3), ("other reasons", 2)]
