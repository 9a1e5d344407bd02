"""Compare two evaluations of the same problems: paired differences with intervals and p-values.

Accuracy and pass@k use the problems for which both evaluations have a graded answer. Fix and damage rates use all shared
problems, as the two differ anyway in which first answers are right. The bounds of a difference also use the answers that
were not graded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_strategy, by_suite, count_not_graded, first_answers
from rethink.evaluation.bounds import Measure, bounded_difference
from rethink.evaluation.costs import on_shared_problems
from rethink.evaluation.intervals import Difference, Outcomes, difference, macro_difference, with_mean_bounds
from rethink.evaluation.outcomes import (
    damage_outcomes,
    final_outcomes,
    final_pass_outcomes,
    fix_outcomes,
    refined_outcomes,
    solve_outcomes,
    solve_pass_outcomes,
)
from rethink.strategies import parse

Answers = Sequence[Answer]


@dataclass(frozen=True)
class Comparison:
    """First evaluation minus second, by measure and suite (and "mean" over several). `n_unshared` counts the problems that
    only one of them has, `n_not_graded` the replies to shared problems that the first and the second leave out.
    """

    differences: dict[str, dict[str, Difference]]
    n_shared: int
    n_unshared: int
    n_not_graded: tuple[int, int]


@dataclass(frozen=True)
class Sides:
    """One measure of both evaluations on one suite. If paired, only problems with a value on both sides count. If both
    measure the same replies, those that were not graded cannot make a difference.
    """

    ours: Measure
    theirs: Measure
    is_paired: bool
    same_replies: bool

    def outcomes(self, ungraded: bool | None = None, theirs_ungraded: bool | None = None) -> tuple[Outcomes, Outcomes]:
        """Return the outcomes of both sides, with what replies that were not graded count as on each."""
        pair = self.ours(ungraded), self.theirs(theirs_ungraded)
        return on_shared_problems(*pair) if self.is_paired else pair

    def difference(self) -> Difference:
        """Return the difference with its bounds."""
        found = difference(*self.outcomes())
        return found if self.same_replies else bounded_difference(found, self.outcomes)


UNPAIRED = ("fix rate", "damage rate")
"""Measures that need no value from both evaluations for each problem."""


def compare(ours: Answers, theirs: Answers, ks: Sequence[int] = ()) -> Comparison:
    """Return the differences on the problems that both evaluations answered, for the strategies that both have. Raise
    UserError if there are no such problems, if a problem's question differs, and for a k above the number of answers.
    """
    problems = _shared_problems(ours, theirs)
    theirs_too = by_strategy(theirs)
    strategies_of_both = [name for name in by_strategy(ours) if name in theirs_too]
    ours_shared, theirs_shared = _answers_to(problems, ours), _answers_to(problems, theirs)
    second = by_suite(theirs_shared)
    sides: dict[str, dict[str, Sides]] = {}
    for suite, first in by_suite(ours_shared).items():
        baselines = _measures(second[suite], strategies_of_both, ks)
        same_drafts = _first_texts(first) == _first_texts(second[suite])
        for name, own in _measures(first, strategies_of_both, ks).items():
            same_replies = same_drafts and name.split(" pass@")[0] == "solve"
            row = Sides(own, baselines[name], not name.endswith(UNPAIRED), same_replies)
            sides.setdefault(name, {})[suite] = row
    found: dict[str, dict[str, Difference]] = {}
    for name, rows in sides.items():
        found[name] = {suite: row.difference() for suite, row in rows.items()}
        if len(rows) > 1:
            mean = macro_difference(list(map(Sides.outcomes, rows.values())))
            found[name]["mean"] = with_mean_bounds(mean, list(found[name].values()))
    for k in ks:
        n = 0
        for measure, differences in found.items():
            if measure.endswith(f"pass@{k}"):
                for gap in differences.values():
                    n += gap.n
        if not n:
            raise UserError(f"pass@{k} needs {k} graded answers to a problem from both evaluations")
    n_unshared = len(_problems(ours) | _problems(theirs)) - len(problems)
    return Comparison(
        found, len(problems), n_unshared, (count_not_graded(ours_shared), count_not_graded(theirs_shared))
    )


def _problems(answers: Answers) -> set[tuple[str, str]]:
    return {(a.suite, a.problem) for a in answers}


def _first_texts(answers: Answers) -> list[tuple[str, str]]:
    return sorted((problem, step.text) for problem, step in first_answers(answers))


def _answers_to(problems: set[tuple[str, str]], answers: Answers) -> list[Answer]:
    return [a for a in answers if (a.suite, a.problem) in problems]


def _shared_problems(ours: Answers, theirs: Answers) -> set[tuple[str, str]]:
    questions = {(a.suite, a.problem): a.question for a in ours if a.steps}
    found: set[tuple[str, str]] = set()
    for answer in theirs:
        key = (answer.suite, answer.problem)
        if not answer.steps or key not in questions:
            continue
        if questions[key] != answer.question:
            raise UserError(f"problem {answer.problem} has different questions in the two evaluations")
        found.add(key)
    if not found:
        raise UserError("the two evaluations have no problem in common")
    return found


def _measures(answers: Answers, strategies_of_both: Sequence[str], ks: Sequence[int]) -> dict[str, Measure]:
    """Return the measures of first answers, then of each strategy that both have; a single strategy's name is left out.
    First answers are those of `solve` if both have it, as in their tables, otherwise of all strategies.
    """
    of_strategy = by_strategy(answers)
    firsts = of_strategy.get("solve", []) if "solve" in strategies_of_both else answers
    found: dict[str, Measure] = {"solve": partial(solve_outcomes, firsts)}
    for k in ks:
        found[f"solve pass@{k}"] = partial(solve_pass_outcomes, firsts, k)
    strategies = [name for name in strategies_of_both if name != "solve"]
    for strategy in strategies:
        finals = of_strategy.get(strategy, [])
        title = "" if len(strategies) == 1 else f"{strategy}: "
        name = f"{title}accuracy"
        if parse(strategy).revises:
            name = f"{title}refined"
            found[name] = partial(refined_outcomes, finals)
            found[f"{title}fix rate"] = partial(fix_outcomes, finals)
            found[f"{title}damage rate"] = partial(damage_outcomes, finals)
        else:
            found[name] = partial(final_outcomes, finals)
        for k in ks:
            found[f"{name} pass@{k}"] = partial(final_pass_outcomes, finals, k)
    return found
