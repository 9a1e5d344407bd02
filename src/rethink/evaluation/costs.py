"""What strategies gain over baselines of equal cost in sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rethink.evaluation.answers import Answer
from rethink.evaluation.baselines import AnswersByStrategy, Baseline, find_baseline
from rethink.evaluation.bounds import bounded_difference
from rethink.evaluation.intervals import Difference, Outcomes, difference, macro_difference, with_mean_bounds
from rethink.evaluation.outcomes import final_outcomes
from rethink.evaluation.summary import Cost, Summary


def with_baseline_gain(summary: Summary, answers: AnswersByStrategy) -> Summary:
    """Return the summary with the strategy's gain over its baseline of equal cost, if the answers have that baseline."""
    baseline = find_baseline(summary.strategy, answers)
    if baseline is None:
        return summary
    gain = _gain(answers[summary.strategy], baseline)
    cost = replace(
        summary.cost, baseline=baseline.kind, n_baseline=baseline.n, baseline_is_cheaper=baseline.cheaper, gain=gain
    )
    return replace(summary, cost=cost)


def mean_baseline_gain(name: str, suites: Sequence[AnswersByStrategy]) -> Difference | None:
    """Return the unweighted mean over suites of the gain over a baseline of equal cost; None if a suite has none."""
    pairs: list[tuple[Outcomes, Outcomes]] = []
    gains: list[Difference] = []
    for answers in suites:
        baseline = find_baseline(name, answers)
        if baseline is None:
            return None
        pairs.append(paired_outcomes(answers[name], baseline))
        gains.append(_gain(answers[name], baseline))
    return with_mean_bounds(macro_difference(pairs), gains)


def describe_baseline(cost: Cost) -> str:
    """Return the baseline in words: "vote of 1.8" is a vote over one answer in 20% and over two in 80% of all cases."""
    if cost.n_baseline is None:
        return ""
    if cost.n_baseline == 1:
        return "one answer"
    n = f"{cost.n_baseline:.1f}"
    if cost.baseline_is_cheaper:
        return f"{n} tries, fewer tokens"
    return f"{n} tries" if cost.baseline == "tries" else f"vote of {n}"


def paired_outcomes(
    ours: Sequence[Answer], baseline: Baseline, ungraded: bool | None = None, baseline_ungraded: bool | None = None
) -> tuple[Outcomes, Outcomes]:
    """Return the outcomes of both on the problems for which both have one; see `outcomes` for ungraded replies."""
    return on_shared_problems(final_outcomes(ours, ungraded), baseline.outcomes(baseline_ungraded))


def on_shared_problems(ours: Outcomes, theirs: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Return both without the problems that only one of them has."""
    both = dict(ours).keys() & dict(theirs).keys()
    return [pair for pair in ours if pair[0] in both], [pair for pair in theirs if pair[0] in both]


def _gain(ours: Sequence[Answer], baseline: Baseline) -> Difference:
    found = difference(*paired_outcomes(ours, baseline))
    return bounded_difference(found, partial(paired_outcomes, ours, baseline))
