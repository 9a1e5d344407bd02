"""The Refinement Gap (Generative Self-Refinement, arXiv 2509.00084): what an answer merged from k candidates gains over a
vote among them.

    gap@k = selfRef@k - maj@k

It is reported with the vote over k + 1 answers, which costs about as much. Where all k candidates are wrong, no vote can be
right; there the merged answer is compared with one fresh answer, which is sometimes right too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from rethink.evaluation.answers import Answer
from rethink.evaluation.baselines import AnswersByStrategy, find_name, vote_strategy
from rethink.evaluation.bounds import bounded_difference, bounded_rate
from rethink.evaluation.intervals import (
    Difference,
    Estimate,
    Outcome,
    Outcomes,
    difference,
    rate,
    relative_difference,
)
from rethink.strategies import Strategy

Case = tuple[Answer, Answer, Answer]
"""The answers of merge:k, vote:k and vote:k+1 to a problem, in one attempt."""
MERGED, VOTE, LARGER_VOTE = range(3)


@dataclass(frozen=True)
class Stratum:
    """The cases with `n_right` right candidates of k: their number, and the accuracy of merged answer and vote."""

    n_right: int
    n: int
    merged: Estimate
    vote: Estimate


@dataclass(frozen=True)
class Gap:
    """The gap at one k. `gap` is in points, `relative` is divided by the vote's accuracy, `gap_to_larger_vote` is against
    the vote over k + 1.

    `all_wrong` is the share of cases without a right candidate. Among these, `rescued` is the accuracy of merged answers,
    `fresh` that of one more first answer, and `rescue` their difference, all three over cases with a graded fresh answer.
    Differences are paired by problem. `n_not_graded` cases have an answer that was not graded: a final one (in no number,
    but in the bounds of the merged answer, the votes and their differences), or a candidate (in no stratum, and not in
    `all_wrong`; these have no bounds, as candidates decide which cases they are about). `n_overlong` cases are left out
    because their candidates were too long to merge; the remaining ones may be easier.
    """

    k: int
    merged: Estimate
    vote: Estimate
    gap: Difference
    relative: Estimate
    larger_vote: Estimate
    gap_to_larger_vote: Difference
    all_wrong: Estimate
    rescued: Estimate
    fresh: Estimate
    rescue: Difference
    strata: tuple[Stratum, ...]
    n_not_graded: int
    n_overlong: int


def merge_size(strategy: Strategy) -> int:
    """Return the k of a strategy that is `merge:k` alone, 0 for any other."""
    first, *rest = strategy.stages
    return first[1] if first[0] == "solve" and [name for name, _ in rest] == ["merge"] else 0


def control_votes(strategies: Sequence[Strategy]) -> list[Strategy]:
    """Return the votes that the gaps of these strategies need and that are not among them."""
    present = {strategy.stages for strategy in strategies}
    counts: list[int] = []
    for strategy in strategies:
        k = merge_size(strategy)
        counts += [k, k + 1] if k else []
    votes = map(vote_strategy, sorted({*counts}))
    return [vote for vote in votes if vote.stages not in present]


def refinement_gaps(strategies: Sequence[Strategy], answers: AnswersByStrategy) -> list[Gap]:
    """Return the gap of each merging strategy whose votes are present."""
    found = []
    for strategy in strategies:
        k = merge_size(strategy)
        votes = [find_name(vote_strategy(n), answers) for n in (k, k + 1)] if k else []
        if votes and all(votes):
            found.append(refinement_gap(k, answers[strategy.name], answers[votes[0]], answers[votes[1]]))
    return found


def refinement_gap(k: int, merged: Iterable[Answer], vote: Iterable[Answer], more: Iterable[Answer]) -> Gap:
    """Return the gap from the answers of `merge:k`, `vote:k` and `vote:k+1`, which must share their candidates. Cases (a
    problem and repeat) that one of them skipped are left out, and so are candidates too long to merge. Raise ValueError
    for different candidates.
    """
    cases, n_overlong = _cases(k, merged, vote, more)
    all_wrong: list[Outcome] = []
    rescued: list[Outcome] = []
    fresh: list[Outcome] = []
    merged_by: dict[int, list[Outcome]] = defaultdict(list)  # by the number of right candidates
    vote_by: dict[int, list[Outcome]] = defaultdict(list)
    n_not_graded = 0
    for answer, voted, larger in cases:
        right, vote_right = answer.right, voted.right
        candidates = [step.right for step in answer.firsts]
        if right is None or vote_right is None or larger.right is None or None in candidates:
            n_not_graded += 1
            continue
        n_right = candidates.count(True)
        merged_by[n_right].append((answer.problem, right))
        vote_by[n_right].append((answer.problem, vote_right))
        all_wrong.append((answer.problem, n_right == 0))
        fresh_right = larger.firsts[-1].right  # the one answer that only the larger vote has
        if n_right == 0 and fresh_right is not None:
            rescued.append((answer.problem, right))
            fresh.append((answer.problem, fresh_right))
    strata: list[Stratum] = []
    for n in range(k + 1):
        strata.append(Stratum(n, len(merged_by[n]), rate(merged_by[n]), rate(vote_by[n])))
    return Gap(
        k=k,
        merged=bounded_rate(partial(_outcomes, cases, MERGED)),
        vote=bounded_rate(partial(_outcomes, cases, VOTE)),
        gap=_difference(cases, VOTE),
        relative=relative_difference(_outcomes(cases, MERGED), _outcomes(cases, VOTE)),
        larger_vote=bounded_rate(partial(_outcomes, cases, LARGER_VOTE)),
        gap_to_larger_vote=_difference(cases, LARGER_VOTE),
        all_wrong=rate(all_wrong),
        rescued=rate(rescued),
        fresh=rate(fresh),
        rescue=difference(rescued, fresh),
        strata=tuple(strata),
        n_not_graded=n_not_graded,
        n_overlong=n_overlong,
    )


def _cases(k: int, merged: Iterable[Answer], vote: Iterable[Answer], more: Iterable[Answer]) -> tuple[list[Case], int]:
    """Return the cases that all three have answered, and the number of those that were too long to merge."""
    votes, larger = _by_case(vote), _by_case(more)
    found: list[Case] = []
    n_overlong = 0
    for answer in merged:
        key = (answer.suite, answer.problem, answer.repeat)
        if key not in votes or key not in larger:
            continue
        case = (answer, votes[key], larger[key])
        if not all(one.finals for one in case):
            continue
        if any(step.phase == "merge" for step in answer.steps):
            _check_candidates(k, *case)
            found.append(case)
        else:
            n_overlong += 1  # the merge prompt was skipped, and the candidates were scored instead
    return found, n_overlong


def _outcomes(cases: Sequence[Case], place: int, ungraded: bool | None = None) -> list[Outcome]:
    """Return the outcomes of the answer at this place of each case. If ungraded answers are left out, so is their case."""
    found: list[Outcome] = []
    for case in cases:
        shares = [answer.share_right(ungraded) for answer in case]
        share = shares[place]
        if share is not None and None not in shares:
            found.append((case[place].problem, share))
    return found


def _difference(cases: Sequence[Case], vote: int) -> Difference:
    """Return the merged minus the vote's accuracy, with its bounds."""

    def both(ungraded: bool | None = None, of_vote: bool | None = None) -> tuple[Outcomes, Outcomes]:
        return _outcomes(cases, MERGED, ungraded), _outcomes(cases, vote, of_vote)

    return bounded_difference(difference(*both()), both)


def _by_case(answers: Iterable[Answer]) -> dict[tuple[str, str, int], Answer]:
    return {(answer.suite, answer.problem, answer.repeat): answer for answer in answers}


def _check_candidates(k: int, *answers: Answer) -> None:
    """Raise ValueError unless all have the same k candidates, and the larger vote, the last, one more."""
    merged, vote, more = ([(step.text, step.seed) for step in answer.firsts] for answer in answers)
    if not (merged == vote == more[:k] and len(merged) == k and len(more) == k + 1):
        raise ValueError(
            f"{answers[0].problem}: merge and vote need the same {k} candidates, and the larger vote one more"
        )
