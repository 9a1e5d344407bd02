"""All numbers of an evaluation: strategies by suite, votes of equal cost, refinement gaps, and means over suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rethink.evaluation.answers import Answer, by_strategy, by_suite
from rethink.evaluation.costs import AnswersByStrategy, equal_cost_votes, mean_vote_gain, missing_votes, with_vote_gain
from rethink.evaluation.gap import Gap, refinement_gaps
from rethink.evaluation.summary import MacroSummary, Summary, macro_summary, summarize
from rethink.strategies import Strategy, parse


@dataclass(frozen=True)
class SuiteResult:
    """One suite: the summaries of its strategies and of the votes that they are compared with, by name, and the gaps."""

    strategies: dict[str, Summary]
    votes: dict[str, Summary]
    gaps: list[Gap]


@dataclass(frozen=True)
class EvaluationResult:
    """Results by suite. `mean` is over several suites, by strategy; None for one suite. `at_equal_cost` is true if
    strategies are compared with votes of equal cost.
    """

    suites: dict[str, SuiteResult]
    mean: dict[str, MacroSummary] | None
    at_equal_cost: bool


def needs_equal_cost(strategies: Sequence[Strategy]) -> bool:
    """Return whether to compare strategies at equal cost: not for first answers alone, nor for one refinement of each."""
    return len(strategies) > 1 or strategies[0].stages not in (parse("solve").stages, parse("refine").stages)


def votes_at_equal_cost(answers: Sequence[Answer], strategies: Sequence[Strategy]) -> list[Strategy]:
    """Return the votes that cost as much as one of these strategies on some suite, except those among them."""
    counts: set[int] = set()
    for some in by_suite(answers).values():
        counts.update(equal_cost_votes(by_strategy(some)).values())
    return missing_votes(counts, strategies)


def compute_results(
    answers: Sequence[Answer], strategies: Sequence[Strategy], ks: Sequence[int] = ()
) -> EvaluationResult:
    """Return all numbers. Answers of strategies that are not listed are votes that the others are compared with. `ks` are
    the k of pass@k, by default powers of two.
    """
    at_equal_cost = needs_equal_cost(strategies)
    suites: list[AnswersByStrategy] = []
    counts: list[Mapping[str, int]] = []
    found: dict[str, SuiteResult] = {}
    for suite, some in by_suite(answers).items():
        named = by_strategy(some)
        requested: dict[str, Sequence[Answer]] = {}
        for strategy in strategies:
            requested[strategy.name] = named[strategy.name]
        n_votes = equal_cost_votes(requested) if at_equal_cost else {}
        rows: dict[str, Summary] = {}
        votes: dict[str, Summary] = {}
        for name, answers_of_name in requested.items():
            rows[name] = with_vote_gain(summarize(answers_of_name, ks), n_votes.get(name), named)
        for name, answers_of_name in named.items():
            if name not in requested:
                votes[name] = summarize(answers_of_name, ks)
        found[suite] = SuiteResult(rows, votes, refinement_gaps(strategies, named))
        suites.append(named)
        counts.append(n_votes)
    if len(found) < 2:
        return EvaluationResult(found, None, at_equal_cost)
    means: dict[str, MacroSummary] = {}
    for strategy in strategies:
        name = strategy.name
        summaries = [result.strategies[name] for result in found.values()]
        mean = macro_summary(summaries, [answers_of_suite[name] for answers_of_suite in suites])
        means[name] = replace(mean, vote_gain=mean_vote_gain(name, suites, counts))
    return EvaluationResult(found, means, at_equal_cost)
