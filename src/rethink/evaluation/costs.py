"""Compare strategies with majority votes of equal cost in sampled tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from rethink.evaluation.answers import Answer
from rethink.evaluation.bounds import bounded_difference
from rethink.evaluation.intervals import (
    Difference,
    Outcome,
    Outcomes,
    average,
    difference,
    macro_difference,
    with_mean_bounds,
)
from rethink.evaluation.outcomes import final_outcomes
from rethink.evaluation.summary import Summary
from rethink.strategies import Strategy, parse

AnswersByStrategy = Mapping[str, Sequence[Answer]]
"""Answers by strategy name."""


def equal_cost_votes(answers: AnswersByStrategy) -> dict[str, int]:
    """Return how many first answers each strategy's sampled tokens buy: rounded, at least 1. Strategies of unknown cost are
    left out.
    """
    firsts: list[Outcome] = []
    tokens: dict[str, list[Outcome]] = {}
    for name, some in answers.items():
        tokens[name] = []
        for answer in some:
            firsts += [(answer.problem, step.n_tokens) for step in answer.firsts if step.n_tokens is not None]
            if answer.n_tokens is not None and answer.steps:
                tokens[name].append((answer.problem, answer.n_tokens))
    per_first = average(firsts).value
    found: dict[str, int] = {}
    for name, some_tokens in tokens.items():
        if some_tokens and per_first > 0:
            found[name] = max(1, round(average(some_tokens).value / per_first))
    return found


def missing_votes(counts: Iterable[int], strategies: Sequence[Strategy]) -> list[Strategy]:
    """Return the votes over these numbers of answers that the strategies lack; a vote over one is a first answer."""
    present = {s.stages for s in strategies}
    found: list[Strategy] = []
    for n in sorted({*counts}):
        vote = vote_strategy(n)
        if vote.stages not in present:
            found.append(vote)
    return found


def vote_strategy(n: int) -> Strategy:
    """Return the majority vote over n first answers."""
    return parse(f"vote:{n}" if n > 1 else "solve")


def find_name(strategy: Strategy, answers: AnswersByStrategy) -> str:
    """Return the name under which the answers have a strategy, however it is spelled; "" if they have none."""
    for name in answers:
        if parse(name).stages == strategy.stages:
            return name
    return ""


def with_vote_gain(summary: Summary, n_vote: int | None, answers: AnswersByStrategy) -> Summary:
    """Return the summary with the strategy's gain over the vote of equal cost, if the answers have that vote."""
    vote = "" if n_vote is None else find_name(vote_strategy(n_vote), answers)
    if vote in ("", summary.strategy):
        return summary
    gain = _vote_gain(answers[summary.strategy], answers[vote])
    return replace(summary, cost=replace(summary.cost, n_vote=n_vote, gain=gain))


def mean_vote_gain(
    name: str, suites: Sequence[AnswersByStrategy], counts: Sequence[Mapping[str, int]]
) -> Difference | None:
    """Return the unweighted mean over suites of the gain over a vote of equal cost; None if a suite has no such vote."""
    pairs: list[tuple[Outcomes, Outcomes]] = []
    gains: list[Difference] = []
    for answers, votes in zip(suites, counts, strict=True):
        vote = find_name(vote_strategy(votes[name]), answers) if name in votes else ""
        if vote in ("", name):
            return None
        pairs.append(paired_outcomes(answers[name], answers[vote]))
        gains.append(_vote_gain(answers[name], answers[vote]))
    return with_mean_bounds(macro_difference(pairs), gains)


def _vote_gain(ours: Sequence[Answer], vote: Sequence[Answer]) -> Difference:
    found = difference(*paired_outcomes(ours, vote))
    return bounded_difference(found, partial(paired_outcomes, ours, vote))


def paired_outcomes(
    ours: Sequence[Answer],
    theirs: Sequence[Answer],
    ungraded: bool | None = None,
    theirs_ungraded: bool | None = None,
) -> tuple[Outcomes, Outcomes]:
    """Return the outcomes of both on the problems for which both have one; see `outcomes` for ungraded replies."""
    return on_shared_problems(final_outcomes(ours, ungraded), final_outcomes(theirs, theirs_ungraded))


def on_shared_problems(ours: Outcomes, theirs: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Return both without the problems that only one of them has."""
    both = dict(ours).keys() & dict(theirs).keys()
    return [pair for pair in ours if pair[0] in both], [pair for pair in theirs if pair[0] in both]
