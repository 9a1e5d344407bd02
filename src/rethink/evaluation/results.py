"""All numbers of an evaluation: strategies by suite, baselines of equal cost, refinement gaps, and means over suites."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from rethink.evaluation.answers import Answer, by_strategy, by_suite
from rethink.evaluation.baselines import AnswersByStrategy, find_baseline
from rethink.evaluation.costs import mean_baseline_gain, with_baseline_gain
from rethink.evaluation.gap import Gap, refinement_gaps
from rethink.evaluation.summary import MacroSummary, Summary, macro_summary, summarize
from rethink.strategies import Strategy, parse


@dataclass(frozen=True)
class SuiteResult:
    """One suite: the summaries of its strategies and of their baselines of equal cost, by name, and the gaps."""

    strategies: dict[str, Summary]
    baselines: dict[str, Summary]
    gaps: list[Gap]


@dataclass(frozen=True)
class EvaluationResult:
    """Results by suite. `mean` is over several suites, by strategy; None for one suite. `at_equal_cost` is true if
    strategies are compared with baselines of equal cost.
    """

    suites: dict[str, SuiteResult]
    mean: dict[str, MacroSummary] | None
    at_equal_cost: bool


def needs_equal_cost(strategies: Sequence[Strategy]) -> bool:
    """Return whether to compare strategies at equal cost: not for first answers alone, nor for one refinement of each."""
    return len(strategies) > 1 or strategies[0].stages not in (parse("solve").stages, parse("refine").stages)


def compute_results(
    answers: Sequence[Answer], strategies: Sequence[Strategy], ks: Sequence[int] = ()
) -> EvaluationResult:
    """Return all numbers. Answers of strategies that are not listed are for baselines. `ks` are the k of pass@k, by default
    powers of two.
    """
    at_equal_cost = needs_equal_cost(strategies)
    suites: list[AnswersByStrategy] = []
    found: dict[str, SuiteResult] = {}
    for suite, some in by_suite(answers).items():
        named = by_strategy(some)
        rows: dict[str, Summary] = {}
        for strategy in strategies:
            summary = summarize(named[strategy.name], ks)
            rows[strategy.name] = with_baseline_gain(summary, named) if at_equal_cost else summary
        baselines = _baseline_rows(named, rows, ks) if at_equal_cost else {}
        found[suite] = SuiteResult(rows, baselines, refinement_gaps(strategies, named))
        suites.append(named)
    if len(found) < 2:
        return EvaluationResult(found, None, at_equal_cost)
    means: dict[str, MacroSummary] = {}
    for strategy in strategies:
        name = strategy.name
        summaries = [result.strategies[name] for result in found.values()]
        mean = macro_summary(summaries, [answers_of_suite[name] for answers_of_suite in suites])
        means[name] = replace(mean, baseline_gain=mean_baseline_gain(name, suites) if at_equal_cost else None)
    return EvaluationResult(found, means, at_equal_cost)


def _baseline_rows(answers: AnswersByStrategy, shown: Collection[str], ks: Sequence[int]) -> dict[str, Summary]:
    """Return the summaries of the baselines of these strategies, without those that are shown already."""
    found: dict[str, Summary] = {}
    for name in shown:
        baseline = find_baseline(name, answers)
        for part in baseline.parts if baseline is not None else ():
            strategy = part[0].strategy
            if strategy not in shown and strategy not in found:
                found[strategy] = summarize(part, ks)
    return found
