"""The Refinement Gap (Generative Self-Refinement, arXiv 2509.00084): what one answer written from k candidates gains over a
vote among the same k.

    gap@k = selfRef@k - maj@k

Beside it stand the vote of k + 1, which costs about as much, and for problems whose k candidates are all wrong, where no
vote can be right, one fresh answer: it too is sometimes right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rethink.evaluation.answers import Answer
from rethink.evaluation.costs import AnswersByStrategy, find_name, missing_votes, vote_strategy
from rethink.evaluation.intervals import Difference, Estimate, bootstrapped, rate, relative_difference
from rethink.evaluation.summary import Outcomes
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
    accuracy of one more first answer, and `rescue` the difference of the two, all three where the fresh answer was graded.
    Differences are paired by problem. Cases with a candidate that was not graded are in no stratum, and counted, as are
    the `n_overlong` cases that are left out because their candidates were too long to merge: the others are easier ones.
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
    """The k of a strategy that is `merge:k` alone, 0 for others."""
    first, *rest = strategy.stages
    return first[1] if first[0] == "solve" and [name for name, _ in rest] == ["merge"] else 0


def control_votes(strategies: Sequence[Strategy]) -> list[Strategy]:
    """The votes that the gaps of these strategies need and that are not among them."""
    counts: list[int] = []
    for strategy in strategies:
        k = merge_size(strategy)
        counts += [k, k + 1] if k else []
    return missing_votes(counts, strategies)


def refinement_gaps(strategies: Sequence[Strategy], answers: AnswersByStrategy) -> list[Gap]:
    """The gap of each strategy that merges, where its votes are there."""
    found = []
    for strategy in strategies:
        k = merge_size(strategy)
        votes = [find_name(vote_strategy(n), answers) for n in (k, k + 1)] if k else []
        if votes and all(votes):
            found.append(refinement_gap(k, answers[strategy.name], answers[votes[0]], answers[votes[1]]))
    return found


def refinement_gap(k: int, merged: Iterable[Answer], vote: Iterable[Answer], more: Iterable[Answer]) -> Gap:
    """The gap of answers by `merge:k`, `vote:k` and `vote:k+1`, which began with the same candidates. Cases (a problem and
    repeat) that one of them skipped are left out, as are those whose candidates were too long to merge. Raises ValueError
    where the candidates are not the same."""
    votes, larger = _by_case(vote), _by_case(more)
    of_merged: Outcomes = []
    of_vote: Outcomes = []
    of_more: Outcomes = []
    all_wrong: Outcomes = []
    rescued: Outcomes = []
    fresh: Outcomes = []
    merged_by: dict[int, Outcomes] = defaultdict(list)  # by the number of right candidates
    vote_by: dict[int, Outcomes] = defaultdict(list)
    n_not_graded = n_overlong = 0
    for one in merged:
        key = (one.suite, one.problem, one.repeat)
        if key not in votes or key not in larger:
            continue
        right, vote_right, more_right = one.right, votes[key].right, larger[key].right
        if right is None or vote_right is None or more_right is None:
            continue
        if not any(step.phase == "merge" for step in one.steps):
            n_overlong += 1  # the merge prompt was skipped, and the candidates were scored instead
            continue
        _check_candidates(k, one, votes[key], larger[key])
        of_merged.append((one.problem, right))
        of_vote.append((one.problem, vote_right))
        of_more.append((one.problem, more_right))
        candidates = [step.right for step in one.firsts]
        if None in candidates:
            n_not_graded += 1
            continue
        n_right = candidates.count(True)
        merged_by[n_right].append((one.problem, right))
        vote_by[n_right].append((one.problem, vote_right))
        all_wrong.append((one.problem, n_right == 0))
        fresh_right = larger[key].firsts[-1].right  # the one answer that only the larger vote has
        if n_right == 0 and fresh_right is not None:
            rescued.append((one.problem, right))
            fresh.append((one.problem, fresh_right))
    strata: list[Stratum] = []
    for n in range(k + 1):
        strata.append(Stratum(n, len(merged_by[n]), rate(merged_by[n]), rate(vote_by[n])))
    return Gap(
        k=k,
        merged=rate(of_merged),
        vote=rate(of_vote),
        gap=bootstrapped(of_merged, of_vote),
        relative=relative_difference(of_merged, of_vote),
        larger_vote=rate(of_more),
        gap_to_larger_vote=bootstrapped(of_merged, of_more),
        all_wrong=rate(all_wrong),
        rescued=rate(rescued),
        fresh=rate(fresh),
        rescue=bootstrapped(rescued, fresh),
        strata=tuple(strata),
        n_not_graded=n_not_graded,
        n_overlong=n_overlong,
    )


def _by_case(answers: Iterable[Answer]) -> dict[tuple[str, str, int], Answer]:
    return {(one.suite, one.problem, one.repeat): one for one in answers}


def _check_candidates(k: int, *answers: Answer) -> None:
    """Raise ValueError unless all began with the same k candidates, and the last, the larger vote, had one more."""
    merged, vote, more = ([(step.text, step.seed) for step in one.firsts] for one in answers)
    if not (merged == vote == more[:k] and len(merged) == k and len(more) == k + 1):
        raise ValueError(f"{answers[0].problem}: the gap needs the same {k} candidates, and one more, on all sides")
