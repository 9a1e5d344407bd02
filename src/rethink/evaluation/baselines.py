"""The baselines of equal cost: votes over first answers or, for strategies that see verdicts, fresh tries.

The cost of a strategy, in sampled tokens, usually lies between those of k and k + 1 answers. Its baseline is then a mixture
of both, with a weight that makes their expected cost equal to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from rethink.evaluation.answers import Answer, by_strategy, by_suite
from rethink.evaluation.intervals import Outcome
from rethink.strategies import Strategy, parse

AnswersByStrategy = Mapping[str, Sequence[Answer]]
"""Answers by strategy name."""

Kind = Literal["vote", "tries"]
MAX_TRIES = 64
"""Strategies that cost more are compared with so many tries."""


@dataclass(frozen=True)
class Baseline:
    """The answers of k (`smaller`) and of k + 1 (`larger`), of which a share `weight` counts. `n` is k + weight. `cheaper`:
    more tries would change nothing, or are more than `MAX_TRIES`, and so many cost less than the strategy.
    """

    kind: Kind
    n: float
    smaller: Sequence[Answer]
    larger: Sequence[Answer]
    weight: float = 0.0
    cheaper: bool = False

    @property
    def parts(self) -> list[Sequence[Answer]]:
        """The answers that count."""
        return [self.smaller, self.larger] if self.weight else [self.smaller]

    def outcomes(self, ungraded: bool | None = None) -> list[Outcome]:
        """Return (problem, share right) for each attempt; see `outcomes` for ungraded replies."""
        larger = {(a.problem, a.repeat): a.share_right(ungraded) for a in self.larger}
        found: list[Outcome] = []
        for answer in self.smaller:
            share = answer.share_right(ungraded)
            other = larger.get((answer.problem, answer.repeat))
            if share is not None and other is not None:
                found.append((answer.problem, share + self.weight * (other - share)))
        return found


def kind_of_baseline(strategy: Strategy) -> Kind | None:
    """Return what a strategy is compared with; None if it is a baseline itself."""
    if _n_answers("vote", strategy) or _n_answers("tries", strategy):
        return None
    return "tries" if "verifier" in strategy.needs else "vote"


def baseline_strategy(kind: Kind, n: int) -> Strategy:
    """Return the baseline that may use n answers; with one, both kinds are a first answer."""
    if n == 1:
        return parse("solve")
    return parse(f"vote:{n}" if kind == "vote" else f"fresh-retry:{n - 1}")


def vote_strategy(n: int) -> Strategy:
    """Return the majority vote over n first answers."""
    return baseline_strategy("vote", n)


def find_name(strategy: Strategy, names: Iterable[str]) -> str:
    """Return the name of a strategy among these, however it is spelled; "" if it is not there."""
    for name in names:
        if parse(name).stages == strategy.stages:
            return name
    return ""


def find_baseline(name: str, answers: AnswersByStrategy) -> Baseline | None:
    """Return the baseline that costs as much as a strategy. None for baselines, for unknown costs, and if the answers lack
    it.
    """
    kind = kind_of_baseline(parse(name))
    cost = mean_tokens(answers[name])
    if kind is None or math.isnan(cost):
        return None
    known = _known(kind, answers)
    costs = {n: mean_tokens(some) for n, some in known.items()}
    if 1 in costs and cost <= costs[1]:
        return Baseline(kind, 1.0, known[1], known[1])
    for k in sorted(known):
        if costs[k] == cost:
            return Baseline(kind, float(k), known[k], known[k])
        if k + 1 in known and costs[k] < cost < costs[k + 1]:
            weight = (cost - costs[k]) / (costs[k + 1] - costs[k])
            return Baseline(kind, k + weight, known[k], known[k + 1], weight)
    most = max(known, default=0)
    if kind == "tries" and most and costs[most] < cost and not _more_tries(most, known[most]):
        fewest = min(n for n in known if costs[n] == costs[most])
        return Baseline(kind, float(fewest), known[fewest], known[fewest], cheaper=True)
    return None


def missing_baselines(
    answers: Sequence[Answer], strategies: Sequence[Strategy], can_vote: bool = True
) -> list[Strategy]:
    """Return strategies to run for the sake of the baselines of others; none if all are there.

    Call it again with their answers: what votes and tries cost is known only then.
    """
    found: set[tuple[Kind, int]] = set()
    for some in by_suite(answers).values():
        named = by_strategy(some)
        for strategy in strategies:
            kind = kind_of_baseline(strategy)
            if kind is None or (kind == "vote" and not can_vote) or find_baseline(strategy.name, named):
                continue
            for n in _wanted(kind, mean_tokens(named[strategy.name]), named):
                found.add((kind, n))
    most_tries = max((n for kind, n in found if kind == "tries"), default=0)
    return [baseline_strategy(kind, n) for kind, n in sorted(found) if kind == "vote" or n == most_tries]


def mean_tokens(answers: Iterable[Answer]) -> float:
    """Return the mean of sampled tokens over answered problems, where known; NaN if nowhere."""
    return _mean(answer.n_tokens for answer in answers if answer.steps)


def first_tries(answer: Answer, n: int) -> Answer:
    """Return what `fresh-retry` with at most n answers would have given, from its answer with more."""
    steps = answer.steps[:n]
    if len(steps) == len(answer.steps):
        return replace(answer, strategy=baseline_strategy("tries", n).name)
    n_prompt_tokens = [step.n_prompt_tokens for step in steps]
    n_tokens = [step.n_tokens for step in steps]
    return replace(
        answer,
        strategy=baseline_strategy("tries", n).name,
        steps=steps,
        finals=(n - 1,),
        n_prompt_tokens=None if None in n_prompt_tokens else sum(filter(None, n_prompt_tokens)),
        n_tokens=None if None in n_tokens else sum(filter(None, n_tokens)),
        depth=n,
    )


def _n_answers(kind: Kind, strategy: Strategy) -> int:
    """Return how many answers a baseline of this kind may use; 0 for any other strategy."""
    (first, n), *rest = strategy.stages
    if first != "solve":
        return 0
    if kind == "vote" and (rest == [("vote", 1)] or (n == 1 and not rest)):
        return n
    if kind == "tries" and n == 1 and (not rest or (len(rest) == 1 and rest[0][0] == "fresh-retry")):
        return 1 + sum(rounds for _, rounds in rest)
    return 0


def _known(kind: Kind, answers: AnswersByStrategy) -> dict[int, Sequence[Answer]]:
    """Return the baselines of a kind that the answers hold, by the number of their answers. Tries hold all with fewer."""
    found: dict[int, Sequence[Answer]] = {}
    for name, some in answers.items():
        n = _n_answers(kind, parse(name))
        if n:
            found[n] = some
    if kind == "tries":
        most = max(found, default=0)
        for n in range(1, most):
            found.setdefault(n, [first_tries(answer, n) for answer in found[most]])
    return found


def _wanted(kind: Kind, cost: float, answers: AnswersByStrategy) -> list[int]:
    """Return numbers of answers to try next, to find the baselines below and above a cost; none if they cannot be found."""
    per_first = _tokens_per_first(answers)
    if math.isnan(cost) or not per_first > 0:
        return []
    known = _known(kind, answers)
    costs = {n: mean_tokens(some) for n, some in known.items()}
    if kind == "vote":
        n = max(1, math.floor(cost / per_first))
        while n > 1 and n in costs and costs[n] > cost:
            n -= 1
        while n + 1 in costs and costs[n + 1] < cost:
            n += 1
        return [size for size in (n, n + 1) if size not in costs]
    most = max(known, default=1)
    if known and (math.isnan(costs[most]) or not _more_tries(most, known[most])):
        return []
    n = 2
    while n < MAX_TRIES and (n <= most or n < cost / per_first):
        n *= 2
    return [n]


def _more_tries(most: int, answers: Iterable[Answer]) -> bool:
    """Return whether more than these tries are allowed, and would change an answer."""
    return most < MAX_TRIES and any(step.right is False for answer in answers for step in answer.final_steps)


def _tokens_per_first(answers: AnswersByStrategy) -> float:
    """Return the mean of the sampled tokens of first answers, where known."""
    found: list[int | None] = []
    for answer in chain.from_iterable(answers.values()):
        found += [step.n_tokens for step in answer.firsts]
    return _mean(found)


def _mean(counts: Iterable[int | None]) -> float:
    known = [n for n in counts if n is not None]
    return sum(known) / len(known) if known else math.nan
