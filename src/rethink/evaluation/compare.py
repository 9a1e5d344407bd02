"""Two evaluations of the same problems: paired differences, with intervals and p-values.

Accuracy and pass@k are compared on the problems for which both have a graded answer. Fix and damage rates are those of the
shared problems: their first answers, right or wrong, differ anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_strategy, by_suite, graded_outcomes
from rethink.evaluation.costs import on_shared_problems
from rethink.evaluation.intervals import Difference, bootstrapped, macro_bootstrapped
from rethink.evaluation.summary import (
    Outcomes,
    damage_outcomes,
    final_pass_outcomes,
    fix_outcomes,
    refined_outcomes,
    solve_outcomes,
    solve_pass_outcomes,
)
from rethink.strategies import parse

Side = Sequence[Answer]


@dataclass(frozen=True)
class Comparison:
    """First minus second, by measure and benchmark (and "mean" over several); `n_unshared` problems only one has."""

    differences: dict[str, dict[str, Difference]]
    n_shared: int
    n_unshared: int


UNPAIRED = ("fix rate", "damage rate")
"""Measures that are not restricted to problems on which both have a value."""


def compare(ours: Side, theirs: Side, ks: Sequence[int] = ()) -> Comparison:
    """The differences on the problems that both have first answers to, for the strategies of both. Raises UserError where
    there are no such problems, where the same problem is another question, and for a k beyond the number of answers."""
    problems = _shared_problems(ours, theirs)
    theirs_too = by_strategy(theirs)
    common = [name for name in by_strategy(ours) if name in theirs_too]
    second = by_suite(_on(problems, theirs))
    pairs: dict[str, dict[str, tuple[Outcomes, Outcomes]]] = {}
    for suite, some in by_suite(_on(problems, ours)).items():
        measured = _measures(second[suite], common, ks)
        for measure, outcomes in _measures(some, common, ks).items():
            pair = outcomes, measured[measure]
            pairs.setdefault(measure, {})[suite] = pair if measure.endswith(UNPAIRED) else on_shared_problems(*pair)
    found: dict[str, dict[str, Difference]] = {}
    for measure, rows in pairs.items():
        found[measure] = {suite: bootstrapped(*row) for suite, row in rows.items()}
        if len(rows) > 1:
            found[measure]["mean"] = macro_bootstrapped(list(rows.values()))
    for k in ks:
        n = 0
        for measure, differences in found.items():
            if measure.endswith(f"pass@{k}"):
                for gap in differences.values():
                    n += gap.n
        if not n:
            raise UserError(f"pass@{k} needs {k} graded answers to a problem from both evaluations")
    return Comparison(found, len(problems), len(_problems(ours) | _problems(theirs)) - len(problems))


def _problems(answers: Side) -> set[tuple[str, str]]:
    return {(a.suite, a.problem) for a in answers}


def _on(problems: set[tuple[str, str]], answers: Side) -> list[Answer]:
    return [a for a in answers if (a.suite, a.problem) in problems]


def _shared_problems(ours: Side, theirs: Side) -> set[tuple[str, str]]:
    questions = {(a.suite, a.problem): a.question for a in ours if a.steps}
    found: set[tuple[str, str]] = set()
    for one in theirs:
        key = (one.suite, one.problem)
        if not one.steps or key not in questions:
            continue
        if questions[key] != one.question:
            raise UserError(f"problem {one.problem} is another question in the second evaluation")
        found.add(key)
    if not found:
        raise UserError("the two evaluations have no problem in common")
    return found


def _measures(answers: Side, common: Sequence[str], ks: Sequence[int]) -> dict[str, Outcomes]:
    """The outcomes of first answers, then of what each strategy that both have made of them; the name of a single one is
    left out. First answers are those of `solve` where both have it, as their tables show them, else of all strategies."""
    of_strategy = by_strategy(answers)
    firsts = of_strategy.get("solve", []) if "solve" in common else answers
    found = {"solve": solve_outcomes(firsts)}
    for k in ks:
        found[f"solve pass@{k}"] = solve_pass_outcomes(firsts, k)
    strategies = [name for name in common if name != "solve"]
    for strategy in strategies:
        some = of_strategy.get(strategy, [])
        title = "" if len(strategies) == 1 else f"{strategy}: "
        name = f"{title}accuracy"
        if parse(strategy).revises:
            name = f"{title}refined"
            found[name] = refined_outcomes(some)
            found[f"{title}fix rate"] = fix_outcomes(some)
            found[f"{title}damage rate"] = damage_outcomes(some)
        else:
            found[name] = graded_outcomes(some)
        for k in ks:
            found[f"{name} pass@{k}"] = final_pass_outcomes(some, k)
    return found
