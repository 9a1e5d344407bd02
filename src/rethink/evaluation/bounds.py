"""What replies that were not graded leave open: the lowest and highest values that rates can have, and the kinds of
reasons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

from rethink.evaluation.intervals import Difference, Estimate, Outcomes, bounded, rate
from rethink.grading.pool import TIMED_OUT

Measure = Callable[[bool | None], Outcomes]
"""What replies that were not graded count as (see `outcomes`) -> outcomes."""
PairedMeasures = Callable[[bool | None, bool | None], tuple[Outcomes, Outcomes]]
"""The same for each of two sides that are compared -> outcomes of both."""

ACCURACY_NOTE = "in parentheses: the accuracy if all replies that were not graded are wrong, and if all are right"
NOTE = f"{ACCURACY_NOTE}; for other rates and differences, the lowest and highest possible value"

GOLD, ANSWER, TIMEOUT, ERROR, OTHER = KINDS = (
    "the gold answer cannot be read",
    "the answer cannot be read",
    "timed out",
    "error",
    "other reasons",
)


def bounded_rate(measure: Measure) -> Estimate:
    """Return the rate of graded replies with its bounds."""
    graded, lowest = measure(None), measure(False)
    found = rate(graded)
    return found if lowest == graded else bounded(found, mean(lowest), mean(measure(True)))


def bounded_difference(found: Difference, measures: PairedMeasures) -> Difference:
    """Return the difference with its bounds."""
    lowest = measures(False, True)
    if lowest == measures(None, None):
        return found  # all replies were graded
    limits: list[float] = []
    for ours, theirs in (lowest, measures(True, False)):
        limits.append(mean(ours) - mean(theirs))
    return bounded(found, *limits)


def mean(outcomes: Outcomes) -> float:
    """Return the mean of the values; NaN without any."""
    return math.fsum(value for _, value in outcomes) / len(outcomes) if outcomes else math.nan


def open_signs(named: Mapping[str, Difference | None]) -> str:
    """Return a line that names the differences whose sign depends on ungraded replies; "" if there are none."""
    found = [name for name, gap in named.items() if gap is not None and gap.sign_is_open]
    return f"the sign depends on the replies that were not graded: {'; '.join(found)}" if found else ""


def kind_of(reason: str) -> str:
    """Return the kind of a reason for which a reply was not graded.

    >>> kind_of("the answer cannot be read: \\\\foo"), kind_of("own:check failed: KeyError: 'x'")
    ('the answer cannot be read', 'error')
    """
    if reason.startswith("the gold answer"):
        return GOLD
    if reason.startswith(ANSWER):
        return ANSWER
    if TIMED_OUT in reason or "no verdict in time" in reason:
        return TIMEOUT
    if " failed: " in reason or reason.endswith(" ended") or "its process ended" in reason:
        return ERROR
    return OTHER


def count_kinds(reasons: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of ungraded replies by kind of reason, the most frequent first."""
    counts: Counter[str] = Counter()
    for reason, n in reasons.items():
        counts[kind_of(reason)] += n
    return dict(counts.most_common())
