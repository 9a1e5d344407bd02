"""Two evaluations of the same problems: paired differences, with intervals and p-values.

Accuracy and pass@k are compared on the problems for which both have a judged answer. Fix and damage rates are those of the
shared problems: their drafts, right or wrong, differ anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rethink.evaluate.answers import Answer
from rethink.evaluate.intervals import Difference, bootstrapped, macro_bootstrapped
from rethink.evaluate.summary import Outcomes, by_suite, correct, damaged, fixed, passes


@dataclass(frozen=True)
class Comparison:
    """First minus second, by measure and benchmark (and "mean" over several); `n_unshared` problems only one has."""

    differences: dict[str, dict[str, Difference]]
    n_shared: int
    n_unshared: int


def compare(ours: Sequence[Answer], theirs: Sequence[Answer], ks: Sequence[int] = ()) -> Comparison:
    """The differences on the problems that both have drafts to. Raises ValueError where there are none, where the same
    problem is another question, and for a k beyond the number of answers."""
    shared = _shared(ours, theirs)
    pairs = _paired_suites(ours, theirs, shared)
    found: dict[str, dict[str, Difference]] = {}
    for measure, outcomes in _measures(ks, any(a.refinements for a in (*ours, *theirs))).items():
        rows = {suite: (outcomes(a), outcomes(b)) for suite, (a, b) in pairs.items()}
        if "rate" not in measure:
            rows = {suite: _on_both(*row) for suite, row in rows.items()}
        found[measure] = {suite: bootstrapped(a, b) for suite, (a, b) in rows.items()}
        if len(rows) > 1:
            found[measure]["mean"] = macro_bootstrapped(list(rows.values()))
    for k in ks:
        rows_of_k = [row for name, rows in found.items() if name.endswith(f" pass@{k}") for row in rows.values()]
        if not any(row.n for row in rows_of_k):
            raise ValueError(f"pass@{k} needs {k} judged answers to a problem from both evaluations")
    both = {(a.suite, a.problem) for a in (*ours, *theirs)}
    return Comparison(found, len(shared), len(both) - len(shared))


def _shared(ours: Sequence[Answer], theirs: Sequence[Answer]) -> set[tuple[str, str]]:
    questions = {(a.suite, a.problem): a.question for a in ours if a.draft is not None}
    shared = {(b.suite, b.problem) for b in theirs if b.draft is not None} & questions.keys()
    if not shared:
        raise ValueError("the two evaluations have no problem in common")
    other = next(
        (b for b in theirs if (b.suite, b.problem) in shared and questions[b.suite, b.problem] != b.question), None
    )
    if other:
        raise ValueError(f"problem {other.problem} is another question in the second evaluation")
    return shared


def _paired_suites(
    ours: Sequence[Answer], theirs: Sequence[Answer], shared: set[tuple[str, str]]
) -> dict[str, tuple[list[Answer], list[Answer]]]:
    first, second = (by_suite(a for a in side if (a.suite, a.problem) in shared) for side in (ours, theirs))
    return {suite: (first[suite], second[suite]) for suite in first}


def _on_both(ours: Outcomes, theirs: Outcomes) -> tuple[Outcomes, Outcomes]:
    both = {problem for problem, _ in ours} & {problem for problem, _ in theirs}
    return [one for one in ours if one[0] in both], [one for one in theirs if one[0] in both]


def _measures(ks: Sequence[int], refined: bool) -> dict[str, Callable[[Sequence[Answer]], Outcomes]]:
    def passing(phase: str, k: int) -> Callable[[Sequence[Answer]], Outcomes]:
        return lambda answers: passes(answers, phase, k)

    solve = {"solve": lambda answers: correct(answers, "solve")}
    refine = {"refined": lambda answers: correct(answers, "refine"), "fix rate": fixed, "damage rate": damaged}
    return {
        **solve,
        **(refine if refined else {}),
        **{f"solve pass@{k}": passing("solve", k) for k in ks},
        **({f"refined pass@{k}": passing("refine", k) for k in ks} if refined else {}),
    }
