"""All numbers of an evaluation: every strategy on every benchmark, votes of equal cost, refinement gaps, and means."""

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
    """One benchmark: the strategies by name, the votes they are compared with besides, and the gaps."""

    strategies: dict[str, Summary]
    votes: dict[str, Summary]
    gaps: list[Gap]


@dataclass(frozen=True)
class EvaluationResult:
    """By benchmark; `mean` over several of them, by strategy, None for one. `at_equal_cost` says whether strategies stand
    beside votes of equal cost."""

    suites: dict[str, SuiteResult]
    mean: dict[str, MacroSummary] | None
    at_equal_cost: bool


def needs_equal_cost(strategies: Sequence[Strategy]) -> bool:
    """Whether strategies are to be compared at equal cost: all but first answers alone, and one refinement of each."""
    return len(strategies) > 1 or strategies[0].stages not in (parse("solve").stages, parse("refine").stages)


def votes_at_equal_cost(answers: Sequence[Answer], strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes that cost what these strategies cost on some benchmark, without those that are among them."""
    counts: set[int] = set()
    for some in by_suite(answers).values():
        counts.update(equal_cost_votes(by_strategy(some)).values())
    return missing_votes(counts, strategies)


def compute_results(
    answers: Sequence[Answer], strategies: Sequence[Strategy], ks: Sequence[int] = ()
) -> EvaluationResult:
    """Return all numbers. Answers of strategies that are not named here are votes that the others are compared with; `ks`
    are the k of pass@k, by default powers of two."""
    at_equal_cost = needs_equal_cost(strategies)
    suites: list[AnswersByStrategy] = []
    counts: list[Mapping[str, int]] = []
    found: dict[str, SuiteResult] = {}
    for suite, some in by_suite(answers).items():
        named = by_strategy(some)
        asked: dict[str, Sequence[Answer]] = {}
        for strategy in strategies:
            asked[strategy.name] = named[strategy.name]
        n_votes = equal_cost_votes(asked) if at_equal_cost else {}
        rows: dict[str, Summary] = {}
        votes: dict[str, Summary] = {}
        for name, own in asked.items():
            rows[name] = with_vote_gain(summarize(own, ks), n_votes.get(name), named)
        for name, own in named.items():
            if name not in asked:
                votes[name] = summarize(own, ks)
        found[suite] = SuiteResult(rows, votes, refinement_gaps(strategies, named))
        suites.append(named)
        counts.append(n_votes)
    if len(found) < 2:
        return EvaluationResult(found, None, at_equal_cost)
    means: dict[str, MacroSummary] = {}
    for strategy in strategies:
        name = strategy.name
        mean = macro_summary([own.strategies[name] for own in found.values()], [own[name] for own in suites])
        means[name] = replace(mean, vote_gain=mean_vote_gain(name, suites, counts))
    return EvaluationResult(found, means, at_equal_cost)
