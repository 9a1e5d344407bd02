"""The Refinement Gap (Generative Self-Refinement, arXiv 2509.00084): what one answer written from k candidates gains over a
vote among the same k.

    gap@k = selfRef@k - maj@k

Beside it stand the vote of k + 1, which costs about as much, and for problems whose k candidates are all wrong, where no
vote can be right, one fresh answer: it too is sometimes right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rethink.evaluate.intervals import Difference, Estimate, bootstrapped, rate, relative
from rethink.evaluate.outcomes import Outcome, rights
from rethink.strategies import Strategy, parse


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
    there = {s.stages for s in strategies}
    wanted = [parse(f"vote:{n}") for s in strategies if (k := merged_of(s)) for n in (k, k + 1)]
    return list({s.stages: s for s in wanted if s.stages not in there}.values())


Case = tuple[Outcome, Outcome, Outcome]
"""The same problem and repeat: merged, vote of k, vote of k + 1."""


def refinement_gap(k: int, merged: Iterable[Outcome], vote: Iterable[Outcome], more: Iterable[Outcome]) -> Gap:
    """The gap of outcomes of `merge:k`, `vote:k` and `vote:k+1`, which began with the same candidates. Cases that one of
    them skipped are left out, as are those whose candidates were too long to merge. Raises ValueError where the candidates
    are not the same."""
    sides = [{(o.suite, o.problem, o.repeat): o for o in side} for side in (merged, vote, more)]
    cases = [(o, sides[1][key], sides[2][key]) for key, o in sides[0].items() if all(key in side for side in sides)]
    whole = [case for case in cases if all(o.right is not None for o in case)]
    cases = [case for case in whole if _is_merged(case[0])]
    for case in cases:
        _check_candidates(k, case)
    merged_, vote_, more_ = (rights(side) for side in zip(*cases, strict=True)) if cases else ([], [], [])
    known = [case for case in cases if None not in case[0].candidates]
    wrong = [case for case in known if not any(case[0].candidates) and case[2].candidates[k] is not None]
    rescued = rights(case[0] for case in wrong)
    fresh = [(case[2].problem, float(bool(case[2].candidates[k]))) for case in wrong]
    return Gap(
        k=k,
        merged=rate(merged_),
        vote=rate(vote_),
        gap=bootstrapped(merged_, vote_),
        relative=relative(merged_, vote_),
        vote_more=rate(more_),
        to_more=bootstrapped(merged_, more_),
        all_wrong=rate([(case[0].problem, float(not any(case[0].candidates))) for case in known]),
        rescued=rate(rescued),
        fresh=rate(fresh),
        rescue=bootstrapped(rescued, fresh),
        strata=tuple(_stratum(n, known) for n in range(k + 1)),
        n_not_judged=len(cases) - len(known),
        n_overlong=len(whole) - len(cases),
    )


def _is_merged(merged: Outcome) -> bool:
    """Not so where the prompt was over-long: the candidates themselves then stand for an answer."""
    return any(step.phase == "merge" for step in merged.steps)


def _stratum(n_right: int, cases: Sequence[Case]) -> Stratum:
    some = [case for case in cases if sum(map(bool, case[0].candidates)) == n_right]
    return Stratum(n_right, len(some), *(rate(rights(case[i] for case in some)) for i in (0, 1)))


def _check_candidates(k: int, case: Case) -> None:
    seen = [[(s.text, s.seed) for s in o.steps if s.phase == "solve"] for o in case]
    if not (seen[0] == seen[1] == seen[2][:k] and len(seen[0]) == k and len(seen[2]) == k + 1):
        raise ValueError(f"{case[0].problem}: the gap needs the same {k} candidates, and one more, on all sides")
