"""Compare two evaluations of the same problems: paired differences with intervals and p-values.

Accuracy and pass@k use the problems for which both evaluations have a graded answer. Fix and damage rates use all shared
problems, as the two differ anyway in which first answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_strategy, by_suite, count_not_graded, graded_outcomes
from rethink.evaluation.costs import on_shared_problems
from rethink.evaluation.intervals import Difference, Outcomes, difference, macro_difference
from rethink.evaluation.summary import (
    damage_outcomes,
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
    pairs: dict[str, dict[str, tuple[Outcomes, Outcomes]]] = {}
    for suite, first in by_suite(ours_shared).items():
        baselines = _outcomes_by_measure(second[suite], strategies_of_both, ks)
        for measure, outcomes in _outcomes_by_measure(first, strategies_of_both, ks).items():
            pair = outcomes, baselines[measure]
            pairs.setdefault(measure, {})[suite] = pair if measure.endswith(UNPAIRED) else on_shared_problems(*pair)
    found: dict[str, dict[str, Difference]] = {}
    for measure, rows in pairs.items():
        found[measure] = {suite: difference(*row) for suite, row in rows.items()}
        if len(rows) > 1:
            found[measure]["mean"] = macro_difference(list(rows.values()))
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


def _outcomes_by_measure(answers: Answers, strategies_of_both: Sequence[str], ks: Sequence[int]) -> dict[str, Outcomes]:
    """Return the outcomes of first answers, then of each strategy that both have; a single strategy's name is left out.
    First answers are those of `solve` if both have it, as in their tables, otherwise of all strategies.
    """
    of_strategy = by_strategy(answers)
    firsts = of_strategy.get("solve", []) if "solve" in strategies_of_both else answers
    found: dict[str, Outcomes] = {"solve": solve_outcomes(firsts)}
    for k in ks:
        found[f"solve pass@{k}"] = solve_pass_outcomes(firsts, k)
    strategies = [name for name in strategies_of_both if name != "solve"]
    for strategy in strategies:
        finals = of_strategy.get(strategy, [])
        title = "" if len(strategies) == 1 else f"{strategy}: "
        name = f"{title}accuracy"
        if parse(strategy).revises:
            name = f"{title}refined"
            found[name] = refined_outcomes(finals)
            found[f"{title}fix rate"] = fix_outcomes(finals)
            found[f"{title}damage rate"] = damage_outcomes(finals)
        else:
            found[name] = graded_outcomes(finals)
        for k in ks:
            found[f"{name} pass@{k}"] = final_pass_outcomes(finals, k)
    return found
