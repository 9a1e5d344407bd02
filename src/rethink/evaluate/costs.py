"""Accuracy of strategies beside what they cost, and against a vote that costs the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rethink.evaluate.intervals import Difference, Estimate, average, bootstrapped, macro, macro_bootstrapped, rate
from rethink.evaluate.outcomes import Outcome, rights
from rethink.strategies import Strategy, parse

Outcomes = Mapping[str, Sequence[Outcome]]
"""By the strategy's name."""


@dataclass(frozen=True)
class Cost:
    """A strategy's accuracy and its means per problem, skipped ones left out: tokens shown and sampled (undefined where the
    policy does not state them) and calls in sequence. `gain` is over the vote of `n_vote` first answers, as many as its
    sampled tokens buy; paired by problem. None where there is no such vote, as for the vote itself."""

    strategy: str
    accuracy: Estimate
    prompt_tokens: Estimate
    tokens: Estimate
    depth: Estimate
    n_vote: int | None
    gain: Difference | None
    n_skipped: int
    n_not_judged: int
    notes: Mapping[str, int]


def equal_votes(outcomes: Outcomes) -> dict[str, int]:
    """How many first answers each strategy's sampled tokens buy, to the nearest whole number, at least one. Strategies of
    unknown cost are left out."""
    firsts = [
        (o.problem, s.n_tokens)
        for some in outcomes.values()
        for o in some
        for s in o.steps
        if s.phase == "solve" and s.n_tokens is not None
    ]
    one = average(firsts).value
    means = {name: _tokens(some).value for name, some in outcomes.items()}
    return {name: max(1, round(mean / one)) for name, mean in means.items() if one > 0 and mean == mean}


def votes_of(counts: Iterable[int], strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes of these many that are not among the strategies; a vote of one is a first answer."""
    there = {s.stages for s in strategies}
    wanted = [_vote(n) for n in sorted({*counts})]
    return [s for s in wanted if s.stages not in there]


def cost(name: str, outcomes: Outcomes, n_vote: int | None) -> Cost:
    """The row of a strategy; `outcomes` also holds the votes."""
    some = outcomes[name]
    asked = [o for o in some if o.steps]
    baseline = None if n_vote is None else outcomes.get(vote_name(n_vote, outcomes))
    itself = baseline is None or baseline is some
    return Cost(
        strategy=name,
        accuracy=rate(rights(some)),
        prompt_tokens=average([(o.problem, o.n_prompt_tokens) for o in asked if o.n_prompt_tokens is not None]),
        tokens=_tokens(some),
        depth=average([(o.problem, o.depth) for o in asked]),
        n_vote=None if itself else n_vote,
        gain=None if itself or baseline is None else bootstrapped(*on_both(some, baseline)),
        n_skipped=sum(not o.finals for o in some),
        n_not_judged=sum(f.right is None for o in some for f in o.finals),
        notes=dict(sum((Counter(o.notes) for o in some), Counter())),
    )


def mean_gain(pairs: Sequence[tuple[Sequence[Outcome], Sequence[Outcome]]]) -> Difference:
    """The unweighted mean over benchmarks of a difference."""
    return macro_bootstrapped([on_both(*pair) for pair in pairs])


def mean_accuracy(parts: Sequence[Sequence[Outcome]]) -> Estimate:
    """The unweighted mean over benchmarks."""
    return macro([rate(rights(some)) for some in parts])


def on_both(
    ours: Sequence[Outcome], theirs: Sequence[Outcome]
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The outcomes of both on problems on which both have one."""
    found = rights(ours), rights(theirs)
    shared = {p for p, _ in found[0]} & {p for p, _ in found[1]}
    ours_, theirs_ = ([(p, right) for p, right in side if p in shared] for side in found)
    return ours_, theirs_


def vote_name(n: int, outcomes: Outcomes) -> str:
    """What the vote of n first answers is called among the outcomes; "" where it is not there."""
    return next((name for name in outcomes if parse(name).stages == _vote(n).stages), "")


def _vote(n: int) -> Strategy:
    return parse(f"vote:{n}" if n > 1 else "solve")


def _tokens(some: Sequence[Outcome]) -> Estimate:
    return average([(o.problem, o.n_tokens) for o in some if o.n_tokens is not None and o.steps])
