"""The result of a comparison of evaluations, and its text."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from rethink.evaluation.bounds import NOTE, open_signs
from rethink.evaluation.intervals import Difference
from rethink.printable import align_columns

Differences = dict[str, dict[str, Difference]]
"""Differences by measure and suite, and their mean over several suites under `mean_title`."""

_NO_OTHER_SEED = (
    "The intervals are over problems: about these two evaluations on other problems. They do not cover another training "
    "seed; give more runs of each method with --pair BEFORE AFTER."
)
ABOUT_PAIRS = (
    "over problems: all pairs together; the interval is about these models on other problems\n"
    "over seeds: the mean of the pairs; the interval is about these methods with other seeds, on these problems\n"
    "Call the methods different only where neither interval contains 0. Two pairs are too few to be sure; use about five."
)


@dataclass(frozen=True)
class PairDifferences:
    """The evaluation `after` minus `before`. `n_not_graded` counts the replies that they leave out, in this order."""

    after: str
    before: str
    differences: Differences
    n_not_graded: tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """First evaluations minus second ones. `differences` pools the pairs and has intervals over problems. `over_seeds` has
    the means of the pairs' differences with intervals over seeds (see `runs.over_seeds`).

    `n_unshared` counts the problems, and `left_out` names the strategies, that some of the evaluations lack.
    """

    differences: Differences
    over_seeds: Differences
    pairs: list[PairDifferences]
    n_shared: int
    n_unshared: int
    left_out: list[str]

    def __str__(self) -> str:
        """Return the table that `rethink compare` prints, with a title above and notes below it."""
        about = _NO_OTHER_SEED if len(self.pairs) == 1 else ABOUT_PAIRS
        return "\n".join([_title(self), "", describe(self), about, *_left_out(self)])


def mean_title(suites: Collection[str]) -> str:
    """Return the key of the mean over suites: "mean", unless a suite has this name.

    >>> mean_title(["aime", "amc"]), mean_title(["mean", "amc"])
    ('mean', 'mean of 2')
    """
    return "mean" if "mean" not in suites else f"mean of {len(suites)}"


def _title(found: Comparison) -> str:
    """Return what is compared."""
    if len(found.pairs) == 1:
        (pair,) = found.pairs
        return f"{pair.after} minus {pair.before}, in points, paired by problem, with 95% intervals and p-values"
    lines = ["after minus before, in points, with 95% intervals and p-values"]
    for n, pair in enumerate(found.pairs, 1):
        lines.append(f"pair {n}: {pair.after} minus {pair.before}")
    return "\n".join(lines)


def describe(found: Comparison) -> str:
    """Return a table with a row per measure and benchmark; for several pairs, also with their mean, over seeds."""
    several = len(found.pairs) > 1
    lines = [["", "over problems", "p", "problems", "over seeds", "p", "each pair"]]
    if not several:
        lines = [["", "difference", "p", "problems"]]
    for measure, rows in found.differences.items():
        for suite, gap in rows.items():
            line = [f"{measure}, {suite}", gap.percent("+"), _p(gap.p), str(gap.n)]
            if several:
                mean = found.over_seeds[measure][suite]
                each = [_points(pair.differences[measure][suite]) for pair in found.pairs]
                line += [mean.percent("+"), _p(mean.p), " ".join(each)]
            lines.append(line)
    return align_columns(lines)


def _points(gap: Difference) -> str:
    return f"{100 * gap.value:+.1f}" if gap.n else "undefined"


def _p(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _left_out(found: Comparison) -> list[str]:
    """Return lines about problems, strategies and replies that do not count, and what they leave open."""
    lines: list[str] = []
    if found.n_unshared:
        lines.append(f"problems left out because some of the evaluations have no answers: {found.n_unshared}")
    if found.left_out:
        lines.append(f"strategies left out because some of the evaluations lack them: {', '.join(found.left_out)}")
    n_not_graded: dict[str, int] = {}
    for pair in found.pairs:
        n_not_graded |= dict(zip((pair.after, pair.before), pair.n_not_graded, strict=True))
    for name, n in n_not_graded.items():
        if n:
            lines.append(f"replies in {name} that were not graded, and are left out: {n}")
    gaps: dict[str, Difference | None] = {}
    for measure, rows in found.differences.items():
        gaps |= {f"{measure}, {suite}": gap for suite, gap in rows.items()}
    return lines + [line for line in (NOTE if any(n_not_graded.values()) else "", open_signs(gaps)) if line]
