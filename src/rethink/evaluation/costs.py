"""Strategies beside a vote that costs the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rethink.evaluation.answers import Answer, graded_outcomes
from rethink.evaluation.intervals import Difference, average, bootstrapped, macro_bootstrapped
from rethink.evaluation.summary import Outcomes, Summary
from rethink.strategies import Strategy, parse

AnswersByStrategy = Mapping[str, Sequence[Answer]]
"""Answers by the strategy's name."""


def equal_cost_votes(answers: AnswersByStrategy) -> dict[str, int]:
    """How many first answers each strategy's sampled tokens buy, to the nearest whole number, at least one. Strategies of
    unknown cost are left out."""
    firsts: Outcomes = []
    tokens: dict[str, Outcomes] = {}
    for name, some in answers.items():
        tokens[name] = []
        for one in some:
            firsts += [(one.problem, step.n_tokens) for step in one.firsts if step.n_tokens is not None]
            if one.n_tokens is not None and one.steps:
                tokens[name].append((one.problem, one.n_tokens))
    per_first = average(firsts).value
    found: dict[str, int] = {}
    for name, some_tokens in tokens.items():
        if some_tokens and per_first > 0:
            found[name] = max(1, round(average(some_tokens).value / per_first))
    return found


def missing_votes(counts: Iterable[int], strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes of these many that are not among the strategies; a vote of one is a first answer."""
    there = {s.stages for s in strategies}
    found: list[Strategy] = []
    for n in sorted({*counts}):
        vote = vote_strategy(n)
        if vote.stages not in there:
            found.append(vote)
    return found


def vote_strategy(n: int) -> Strategy:
    """The vote of n first answers."""
    return parse(f"vote:{n}" if n > 1 else "solve")


def find_name(strategy: Strategy, answers: AnswersByStrategy) -> str:
    """What a strategy is called among the answers, however it is spelled; "" where it is not there."""
    for name in answers:
        if parse(name).stages == strategy.stages:
            return name
    return ""


def with_vote_gain(summary: Summary, n_vote: int | None, answers: AnswersByStrategy) -> Summary:
    """Return the summary of a strategy with its gain over the vote of equal cost, if the answers have one."""
    vote = "" if n_vote is None else find_name(vote_strategy(n_vote), answers)
    if vote in ("", summary.strategy):
        return summary
    gain = bootstrapped(*paired_outcomes(answers[summary.strategy], answers[vote]))
    return replace(summary, cost=replace(summary.cost, n_vote=n_vote, gain=gain))


def mean_vote_gain(
    name: str, suites: Sequence[AnswersByStrategy], counts: Sequence[Mapping[str, int]]
) -> Difference | None:
    """The unweighted mean over benchmarks of the gain over a vote of equal cost; None where one of them has none."""
    pairs: list[tuple[Outcomes, Outcomes]] = []
    for answers, votes in zip(suites, counts, strict=True):
        vote = find_name(vote_strategy(votes[name]), answers) if name in votes else ""
        if vote in ("", name):
            return None
        pairs.append(paired_outcomes(answers[name], answers[vote]))
    return macro_bootstrapped(pairs)


def paired_outcomes(ours: Sequence[Answer], theirs: Sequence[Answer]) -> tuple[Outcomes, Outcomes]:
    """The outcomes of both on problems on which both have one."""
    return on_shared_problems(graded_outcomes(ours), graded_outcomes(theirs))


def on_shared_problems(ours: Outcomes, theirs: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both without the problems that only one has."""
    both = dict(ours).keys() & dict(theirs).keys()
    return [one for one in ours if one[0] in both], [one for one in theirs if one[0] in both]
