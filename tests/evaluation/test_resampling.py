"""Which interval a difference gets."""

from __future__ import annotations

from rethink.evaluation.intervals import (
    BOOTSTRAP_FROM,
    RESAMPLES,
    bootstrapped,
    difference,
    macro_bootstrapped,
    macro_difference,
)


def test_differences_are_bootstrapped_where_there_are_problems_enough() -> None:
    """Guards against a bootstrap over a handful of problems, and against none over hundreds."""
    many = [(str(i), i % 3 == 0) for i in range(BOOTSTRAP_FROM)]
    other = [(str(i), i % 4 == 0) for i in range(BOOTSTRAP_FROM)]
    assert bootstrapped(many, other) == difference(many, other, RESAMPLES) != difference(many, other)
    assert bootstrapped(many[:-1], other[:-1]) == difference(many[:-1], other[:-1])
    pairs = [(many, other), (other, many)]
    assert macro_bootstrapped(pairs) == macro_difference(pairs, RESAMPLES)
    assert macro_bootstrapped([*pairs, (many[:9], other[:9])]).p > 0
