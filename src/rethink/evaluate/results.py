"""All numbers of an evaluation: every strategy on every benchmark, votes of equal cost, refinement gaps, and means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rethink.evaluate.answers import Answer, by_strategy, by_suite
from rethink.evaluate.costs import beside_vote, equal_votes, mean_vote_gain, votes_of
from rethink.evaluate.gap import Gap, controls, gaps_of
from rethink.evaluate.summary import Macro, Summary, macro_summary, summarize
from rethink.strategies import Strategy, parse
from rethink.types import Problem


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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        suites: dict[str, Any] = {}
        for suite, own in self.suites.items():
            suites[suite] = asdict(own)
        means = None if self.mean is None else {name: asdict(mean) for name, mean in self.mean.items()}
        return {"suites": suites, "mean": means}


def is_at_cost(strategies: Sequence[Strategy]) -> bool:
    """Whether strategies are to be compared at equal cost: all but first answers alone, and one refinement of each."""
    return len(strategies) > 1 or strategies[0].stages not in (parse("solve").stages, parse("refine").stages)


def are_comparable(problems: Sequence[Problem]) -> bool:
    """Whether the answers to all problems can be voted on."""
    return all(p.answer is not None for p in problems)


def votes_at_equal_cost(answers: Sequence[Answer], strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes that cost what these strategies cost on some benchmark, without those that are among them."""
    counts: set[int] = set()
    for some in by_suite(answers).values():
        counts.update(equal_votes(by_strategy(some)).values())
    return votes_of(counts, strategies)


def results(answers: Sequence[Answer], strategies: Sequence[Strategy], ks: Sequence[int] = ()) -> Result:
    """Return all numbers. Answers of strategies that are not named here are votes that the others are compared with; `ks`
    are the k of pass@k, by default powers of two."""
    names = [s.name for s in strategies]
    at_cost = is_at_cost(strategies)
    suites = {suite: by_strategy(some) for suite, some in by_suite(answers).items()}
    counts: list[dict[str, int]] = []
    found: dict[str, SuiteResult] = {}
    for suite, own in suites.items():
        counts.append(equal_votes({name: own[name] for name in names}) if at_cost else {})
        summaries = {name: summarize(some, ks) for name, some in own.items()}
        rows = {name: beside_vote(summaries[name], counts[-1].get(name), own) for name in names}
        votes = {name: summary for name, summary in summaries.items() if name not in names}
        found[suite] = SuiteResult(rows, votes, gaps_of(strategies, own))
    if len(found) < 2:
        return Result(found, None, at_cost)
    means: dict[str, Macro] = {}
    for name in names:
        mean = macro_summary([own.strategies[name] for own in found.values()], [own[name] for own in suites.values()])
        means[name] = replace(mean, vote_gain=mean_vote_gain(name, list(suites.values()), counts))
    return Result(found, means, at_cost)


def with_controls(strategies: Sequence[Strategy]) -> list[Strategy]:
    """The strategies, and the votes that their refinement gaps need."""
    return [*strategies, *controls(strategies)]
