"""Two evaluations of the same problems: paired differences, with intervals and p-values.

Accuracy and pass@k are compared on the problems for which both have a judged answer. Fix and damage rates are those of the
shared problems: their first answers, right or wrong, differ anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rethink.errors import UserError
from rethink.evaluate.answers import Answer, by_strategy, by_suite, rights
from rethink.evaluate.costs import shared
from rethink.evaluate.intervals import Difference, bootstrapped, macro_bootstrapped
from rethink.evaluate.summary import Outcomes, damaged, final_passes, fixed, refined, solve_passes, solved
from rethink.strategies import parse

Side = Sequence[Answer]


@dataclass(frozen=True)
class Comparison:
    """First minus second, by measure and benchmark (and "mean" over several); `n_unshared` problems only one has."""

    differences: dict[str, dict[str, Difference]]
    n_shared: int
    n_unshared: int


@dataclass(frozen=True)
class Measure:
    """What is compared: (problem, value) pairs of the answers of one strategy ("": of all); `k` of pass@k, else 0."""

    name: str
    strategy: str
    outcomes: Callable[[Side], Outcomes]
    k: int = 0
    on_both: bool = True

    def of(self, answers: Side) -> Outcomes:
        return self.outcomes([a for a in answers if self.strategy in ("", a.strategy)])


def compare(ours: Side, theirs: Side, ks: Sequence[int] = ()) -> Comparison:
    """The differences on the problems that both have first answers to, for the strategies of both. Raises UserError where
    there are no such problems, where the same problem is another question, and for a k beyond the number of answers."""
    problems = _shared_problems(ours, theirs)
    first = by_suite(_on(problems, ours))
    second = by_suite(_on(problems, theirs))
    found: dict[str, dict[str, Difference]] = {}
    n_of_k = dict.fromkeys(ks, 0)
    for measure in _measures(ours, theirs, ks):
        rows: dict[str, tuple[Outcomes, Outcomes]] = {}
        for suite in first:
            pair = measure.of(first[suite]), measure.of(second[suite])
            rows[suite] = shared(*pair) if measure.on_both else pair
        differences = {suite: bootstrapped(*row) for suite, row in rows.items()}
        if len(rows) > 1:
            differences["mean"] = macro_bootstrapped(list(rows.values()))
        if measure.k:
            n_of_k[measure.k] += sum(row.n for row in differences.values())
        found[measure.name] = differences
    for k, n in n_of_k.items():
        if not n:
            raise UserError(f"pass@{k} needs {k} judged answers to a problem from both evaluations")
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


def _measures(ours: Side, theirs: Side, ks: Sequence[int]) -> list[Measure]:
    """First answers, then what each strategy that both have made of them; the name of a single one is left out.

    First answers are those of `solve` where both have it, as their tables show them, and of all strategies otherwise."""
    theirs_too = by_strategy(theirs)
    common = [name for name in by_strategy(ours) if name in theirs_too]
    asked = "solve" if "solve" in common else ""
    found = [Measure("solve", asked, solved)]
    found += [Measure(f"solve pass@{k}", asked, partial(solve_passes, k=k), k) for k in ks]
    names = [name for name in common if name != "solve"]
    for name in names:
        found += _measures_of(name, "" if len(names) == 1 else f"{name}: ", ks)
    return found


def _measures_of(strategy: str, title: str, ks: Sequence[int]) -> list[Measure]:
    if not parse(strategy).revises:
        found = [Measure(f"{title}accuracy", strategy, rights)]
    else:
        found = [
            Measure(f"{title}refined", strategy, refined),
            Measure(f"{title}fix rate", strategy, fixed, on_both=False),
            Measure(f"{title}damage rate", strategy, damaged, on_both=False),
        ]
    name = found[0].name
    found += [Measure(f"{name} pass@{k}", strategy, partial(final_passes, k=k), k) for k in ks]
    return found
