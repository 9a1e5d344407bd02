"""The Refinement Gap (Generative Self-Refinement, arXiv 2509.00084): what one answer written from k candidates gains over a
vote among the same k.

    gap@k = selfRef@k - maj@k

Beside it stand the vote of k + 1, which costs about as much, and for problems whose k candidates are all wrong, where no
vote can be right, one fresh answer: it too is sometimes right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rethink.evaluate.answers import Answer, rights
from rethink.evaluate.costs import ByStrategy, named, vote_of, votes_of
from rethink.evaluate.intervals import Difference, Estimate, bootstrapped, rate, relative
from rethink.evaluate.summary import Outcomes
from rethink.strategies import Strategy


@dataclass(frozen=True)
class Stratum:
    """The cases with `n_right` right candidates of k: how many there are, and the accuracy of both."""

    n_right: int
    n: int
    merged: Estimate
    vote: Estimate


@dataclass(frozen=True)
class Gap:
    """All of one k. `gap` is in points, `relative` over the vote's accuracy, `to_more` against the vote of k + 1.

    `all_wrong` is the share of cases without a right candidate; in these, `rescued` were right once merged, `fresh` is the
    accuracy of one more first answer, and `rescue` the difference of the two, all three where the fresh answer was judged.
    Differences are paired by problem. Cases with a candidate that was not judged are in no stratum, and counted, as are
    the `n_overlong` cases that are left out because their candidates were too long to merge: the others are easier ones.
    """

    k: int
    merged: Estimate
    vote: Estimate
    gap: Difference
    relative: Estimate
    vote_more: Estimate
    to_more: Difference
    all_wrong: Estimate
    rescued: Estimate
    fresh: Estimate
    rescue: Difference
    strata: tuple[Stratum, ...]
    n_not_judged: int
    n_overlong: int


def merged_of(strategy: Strategy) -> int:
    """The k of a strategy that is `merge:k` alone, 0 for others."""
    first, *rest = strategy.stages
    return first[1] if first[0] == "solve" and [name for name, _ in rest] == ["merge"] else 0


def controls(strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes that the gaps of these strategies need and that are not among them."""
    counts: list[int] = []
    for strategy in strategies:
        k = merged_of(strategy)
        counts += [k, k + 1] if k else []
    return votes_of(counts, strategies)


def gaps_of(strategies: Sequence[Strategy], answers: ByStrategy) -> list[Gap]:
    """The gap of each strategy that merges, where its votes are there."""
    found = []
    for strategy in strategies:
        k = merged_of(strategy)
        votes = [named(vote_of(n), answers) for n in (k, k + 1)] if k else []
        if votes and all(votes):
            found.append(refinement_gap(k, answers[strategy.name], answers[votes[0]], answers[votes[1]]))
    return found


@dataclass(frozen=True)
class Case:
    """The same problem and repeat: merged, vote of k, vote of k + 1."""

    merged: Answer
    vote: Answer
    more: Answer

    @property
    def problem(self) -> str:
        return self.merged.problem

    @property
    def candidates(self) -> list[bool | None]:
        """Whether they are right, None where not judged."""
        return [step.right for step in self.merged.firsts]

    @property
    def fresh(self) -> bool | None:
        """Whether the one answer is right that only the larger vote has."""
        return self.more.firsts[-1].right

    @property
    def is_whole(self) -> bool:
        """Whether all three have a verdict."""
        return None not in (self.merged.right, self.vote.right, self.more.right)

    @property
    def is_merged(self) -> bool:
        """False if the merge prompt was skipped as too long; the candidates are scored instead."""
        return any(step.phase == "merge" for step in self.merged.steps)

    def check(self, k: int) -> None:
        """Raise ValueError unless all began with the same k candidates, and the larger vote had one more."""
        merged, vote, more = ([(s.text, s.seed) for s in o.firsts] for o in (self.merged, self.vote, self.more))
        if not (merged == vote == more[:k] and len(merged) == k and len(more) == k + 1):
            raise ValueError(f"{self.problem}: the gap needs the same {k} candidates, and one more, on all sides")


def refinement_gap(k: int, merged: Iterable[Answer], vote: Iterable[Answer], more: Iterable[Answer]) -> Gap:
    """The gap of answers by `merge:k`, `vote:k` and `vote:k+1`, which began with the same candidates. Cases that one of
    them skipped are left out, as are those whose candidates were too long to merge. Raises ValueError where the candidates
    are not the same."""
    cases: list[Case] = []
    n_overlong = 0
    for case in _cases(merged, vote, more):
        if case.is_merged:
            cases.append(case)
        else:
            n_overlong += 1
    of_merged, of_vote, of_more = _sides(cases)
    known: list[Case] = []
    wrong: list[Case] = []
    all_wrong: list[tuple[str, float]] = []
    fresh: list[tuple[str, float]] = []
    for case in cases:
        case.check(k)
        if None in case.candidates:
            continue
        known.append(case)
        all_wrong.append((case.problem, not any(case.candidates)))
        if not any(case.candidates) and case.fresh is not None:
            wrong.append(case)
            fresh.append((case.problem, case.fresh))
    rescued, _, _ = _sides(wrong)
    return Gap(
        k=k,
        merged=rate(of_merged),
        vote=rate(of_vote),
        gap=bootstrapped(of_merged, of_vote),
        relative=relative(of_merged, of_vote),
        vote_more=rate(of_more),
        to_more=bootstrapped(of_merged, of_more),
        all_wrong=rate(all_wrong),
        rescued=rate(rescued),
        fresh=rate(fresh),
        rescue=bootstrapped(rescued, fresh),
        strata=tuple(_stratum(n, known) for n in range(k + 1)),
        n_not_judged=len(cases) - len(known),
        n_overlong=n_overlong,
    )


def _cases(merged: Iterable[Answer], vote: Iterable[Answer], more: Iterable[Answer]) -> list[Case]:
    """The cases of which all three have a verdict."""
    votes = {(o.suite, o.problem, o.repeat): o for o in vote}
    larger = {(o.suite, o.problem, o.repeat): o for o in more}
    found: list[Case] = []
    for one in merged:
        key = (one.suite, one.problem, one.repeat)
        if key in votes and key in larger:
            case = Case(one, votes[key], larger[key])
            if case.is_whole:
                found.append(case)
    return found


def _sides(cases: Sequence[Case]) -> tuple[Outcomes, Outcomes, Outcomes]:
    """(problem, share right) of the merged answers, of the votes and of the larger votes."""
    merged: list[Answer] = []
    vote: list[Answer] = []
    more: list[Answer] = []
    for case in cases:
        merged.append(case.merged)
        vote.append(case.vote)
        more.append(case.more)
    return rights(merged), rights(vote), rights(more)


def _stratum(n_right: int, cases: Sequence[Case]) -> Stratum:
    some = [case for case in cases if case.candidates.count(True) == n_right]
    merged, vote, _ = _sides(some)
    return Stratum(n_right, len(some), rate(merged), rate(vote))
