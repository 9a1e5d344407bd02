"""All numbers of an evaluation: every strategy on every benchmark, votes of equal cost, refinement gaps, and means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rethink.evaluation.answers import Answer, by_strategy, by_suite
from rethink.evaluation.costs import ByStrategy, beside_vote, equal_votes, mean_vote_gain, votes_of
from rethink.evaluation.gap import Gap, gaps_of
from rethink.evaluation.summary import Macro, Summary, macro_summary, summarize
from rethink.strategies import Strategy, parse


@dataclass(frozen=True)
class SuiteResult:
    """One benchmark: the strategies by name, the votes they are compared with besides, and the gaps."""

    strategies: dict[str, Summary]
    votes: dict[str, Summary]
    gaps: list[Gap]


@dataclass(frozen=True)
class Result:
    """By benchmark; `mean` over several of them, by strategy, None for one. `at_cost` says whether strategies stand beside
    votes of equal cost."""

    suites: dict[str, SuiteResult]
    mean: dict[str, Macro] | None
    at_cost: bool


def is_at_cost(strategies: Sequence[Strategy]) -> bool:
    """Whether strategies are to be compared at equal cost: all but first answers alone, and one refinement of each."""
    return len(strategies) > 1 or strategies[0].stages not in (parse("solve").stages, parse("refine").stages)


def votes_at_equal_cost(answers: Sequence[Answer], strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes that cost what these strategies cost on some benchmark, without those that are among them."""
    counts: set[int] = set()
    for some in by_suite(answers).values():
        counts.update(equal_votes(by_strategy(some)).values())
    return votes_of(counts, strategies)


def results(answers: Sequence[Answer], strategies: Sequence[Strategy], ks: Sequence[int] = ()) -> Result:
    """Return all numbers. Answers of strategies that are not named here are votes that the others are compared with; `ks`
    are the k of pass@k, by default powers of two."""
    at_cost = is_at_cost(strategies)
    suites: list[ByStrategy] = []
    counts: list[Mapping[str, int]] = []
    found: dict[str, SuiteResult] = {}
    for suite, some in by_suite(answers).items():
        named = by_strategy(some)
        asked: dict[str, Sequence[Answer]] = {}
        for strategy in strategies:
            asked[strategy.name] = named[strategy.name]
        n_votes = equal_votes(asked) if at_cost else {}
        rows: dict[str, Summary] = {}
        votes: dict[str, Summary] = {}
        for name, own in asked.items():
            rows[name] = beside_vote(summarize(own, ks), n_votes.get(name), named)
        for name, own in named.items():
            if name not in asked:
                votes[name] = summarize(own, ks)
        found[suite] = SuiteResult(rows, votes, gaps_of(strategies, named))
        suites.append(named)
        counts.append(n_votes)
    if len(found) < 2:
        return Result(found, None, at_cost)
    means: dict[str, Macro] = {}
    for strategy in strategies:
        name = strategy.name
        mean = macro_summary([own.strategies[name] for own in found.values()], [own[name] for own in suites])
        means[name] = replace(mean, vote_gain=mean_vote_gain(name, suites, counts))
    return Result(found, means, at_cost)
