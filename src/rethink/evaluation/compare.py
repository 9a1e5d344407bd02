"""Compare evaluations of the same problems: paired differences with intervals and p-values, over problems and over seeds.

Accuracy and pass@k use the problems for which both evaluations of a pair have a graded answer. Fix and damage rates use all
shared problems, as the two differ anyway in which first answers are right. The bounds of a difference also use the answers
that were not graded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_strategy, by_suite, count_not_graded, first_answers
from rethink.evaluation.bounds import Measure, bounded_difference
from rethink.evaluation.comparison import Comparison, Differences, PairDifferences, mean_title
from rethink.evaluation.costs import on_shared_problems
from rethink.evaluation.fresh import fresh_outcomes
from rethink.evaluation.intervals import Outcome, Outcomes, difference, macro_difference, with_mean_bounds
from rethink.evaluation.outcomes import (
    damage_outcomes,
    final_outcomes,
    final_pass_outcomes,
    fix_outcomes,
    refined_outcomes,
    solve_outcomes,
    solve_pass_outcomes,
)
from rethink.evaluation.runs import over_seeds
from rethink.strategies import parse

OUR_TOOL = "rethink"
Answers = Sequence[Answer]


@dataclass(frozen=True)
class Evaluation:
    """The answers of an evaluation, the name that messages give it, and the tool that wrote it."""

    name: str
    answers: Answers
    tool: str = OUR_TOOL


Pair = tuple[Evaluation, Evaluation]
"""Two evaluations to compare: the first minus the second."""


@dataclass(frozen=True)
class Sides:
    """One measure of a pair of evaluations on one suite. If paired, only problems with a value on both sides count. If both
    measure the same replies, those that were not graded cannot make a difference.
    """

    ours: Measure
    theirs: Measure
    is_paired: bool
    same_replies: bool

    def outcomes(self, ungraded: bool | None = None, theirs_ungraded: bool | None = None) -> tuple[Outcomes, Outcomes]:
        """Return the outcomes of both sides, with what replies that were not graded count as on each."""
        if self.same_replies:
            ungraded = theirs_ungraded = None
        pair = self.ours(ungraded), self.theirs(theirs_ungraded)
        return on_shared_problems(*pair) if self.is_paired else pair


SidesTable = Mapping[str, Mapping[str, Sides]]
"""What one pair compares, by measure and suite."""

UNPAIRED = ("fix rate", "damage rate", "of fresh answers")
"""Measures that need no value from both evaluations for each problem."""


def compare(pairs: Sequence[Pair], ks: Sequence[int] = ()) -> Comparison:
    """Return the differences on the problems that all evaluations answered, for the strategies that all have.

    Raise UserError if there are no such problems, if a problem's question or gold answer differs, and for a k above the
    number of answers.
    """
    evaluations = [evaluation for pair in pairs for evaluation in pair]
    problems = _shared_problems(evaluations)
    strategies, left_out = _shared_strategies(evaluations)
    with_fresh = _strategies_with_fresh(evaluations, strategies)
    tables: list[SidesTable] = []
    found: list[PairDifferences] = []
    for ours, theirs in pairs:
        answers = _answers_to(problems, ours.answers), _answers_to(problems, theirs.answers)
        table = _sides(*answers, strategies, ks, with_fresh)
        differences = _differences([table])
        _check_ks(ks, differences, f"{theirs.name} and {ours.name}")
        counts = count_not_graded(answers[0]), count_not_graded(answers[1])
        found.append(PairDifferences(ours.name, theirs.name, differences, counts))
        tables.append(table)
    pooled = _differences(tables) if len(tables) > 1 else found[0].differences
    every: set[tuple[str, str]] = set()
    for evaluation in evaluations:
        every |= {(a.suite, a.problem) for a in evaluation.answers}
    n_unshared = len(every) - len(problems)
    return Comparison(pooled, _over_seeds(found), found, len(problems), n_unshared, left_out)


def check_runs_differ(pairs: Sequence[Pair]) -> None:
    """Raise UserError if a run would count twice. One side may be the same in all pairs, such as the start model."""
    firsts, seconds = (list(side) for side in zip(*pairs, strict=True))
    for side, others in ((firsts, seconds), (seconds, firsts)):
        copies = _copies(side)
        is_the_same_everywhere = len(copies) == len(pairs) - 1
        if copies and not (is_the_same_everywhere and not _copies(others)):
            one, copy = copies[0]
            what = "is in several pairs" if one.name == copy.name else f"has the same answers as {one.name}"
            raise UserError(f"{copy.name} {what}; each pair needs other runs, with another seed")


def _copies(side: Sequence[Evaluation]) -> list[Pair]:
    """Return each evaluation that has the answers of an earlier one, after that one."""
    found: list[Pair] = []
    for n, evaluation in enumerate(side):
        for earlier in side[:n]:
            if earlier.answers == evaluation.answers:
                found.append((earlier, evaluation))
                break
    return found


def _sides(
    ours: Answers, theirs: Answers, strategies: Sequence[str], ks: Sequence[int], with_fresh: Sequence[str]
) -> SidesTable:
    second = by_suite(theirs)
    found: dict[str, dict[str, Sides]] = {}
    for suite, first in by_suite(ours).items():
        others = _measures(second[suite], strategies, ks, with_fresh)
        same_drafts = _first_texts(first) == _first_texts(second[suite])
        for name, own in _measures(first, strategies, ks, with_fresh).items():
            same_replies = same_drafts and name.split(" pass@")[0] == "solve"
            row = Sides(own, others[name], not name.endswith(UNPAIRED), same_replies)
            found.setdefault(name, {})[suite] = row
    return found


def _differences(tables: Sequence[SidesTable]) -> Differences:
    """Return the differences of one pair, or of several pooled: a problem's answers in all runs count as its answers."""
    found: Differences = {}
    for name, rows in tables[0].items():
        found[name] = {}
        pooled: list[tuple[Outcomes, Outcomes]] = []
        for suite in rows:
            measures = partial(_pooled_outcomes, [table[name][suite] for table in tables])
            pooled.append(measures())
            found[name][suite] = bounded_difference(difference(*pooled[-1]), measures)
        if len(rows) > 1:
            mean = with_mean_bounds(macro_difference(pooled), list(found[name].values()))
            found[name][mean_title(rows)] = mean
    return found


def _pooled_outcomes(
    runs: Sequence[Sides], ungraded: bool | None = None, theirs_ungraded: bool | None = None
) -> tuple[Outcomes, Outcomes]:
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    for sides in runs:
        first, second = sides.outcomes(ungraded, theirs_ungraded)
        ours += first
        theirs += second
    return ours, theirs


def _over_seeds(pairs: Sequence[PairDifferences]) -> Differences:
    found: Differences = {}
    for name, rows in pairs[0].differences.items():
        found[name] = {}
        for suite in rows:
            members = [pair.differences[name][suite] for pair in pairs]
            mean = over_seeds([gap.value for gap in members])
            found[name][suite] = with_mean_bounds(mean, members)
    return found


def _check_ks(ks: Sequence[int], differences: Differences, names: str) -> None:
    for k in ks:
        n = 0
        for measure, rows in differences.items():
            if measure.endswith(f"pass@{k}"):
                n += sum(gap.n for gap in rows.values())
        if not n:
            raise UserError(f"{names}: pass@{k} needs {k} graded answers to a problem from both evaluations")


def _first_texts(answers: Answers) -> list[tuple[str, str]]:
    return sorted((problem, step.text) for problem, step in first_answers(answers))


def _answers_to(problems: set[tuple[str, str]], answers: Answers) -> list[Answer]:
    return [a for a in answers if (a.suite, a.problem) in problems]


def _shared_problems(evaluations: Sequence[Evaluation]) -> set[tuple[str, str]]:
    """Return the suites and ids of the problems that all evaluations answered."""
    first = evaluations[0]
    questions = _questions(first)
    shared = {*questions}
    for other in evaluations[1:]:
        names = f"{other.name} and {first.name}"
        theirs = _questions(other)
        for key in theirs.keys() & questions.keys():
            if questions[key] != theirs[key]:
                what = "gold answers" if questions[key][0] == theirs[key][0] else "questions"
                raise UserError(f"{names}: problem {key[1]} has different {what} in the two evaluations")
        if not theirs.keys() & questions.keys():
            begin = [question[:80] for question, _ in (*islice(theirs.values(), 1), *islice(questions.values(), 1))]
            raise UserError(f"{names}: the two evaluations have no problem in common; their first questions: {begin}")
        shared &= theirs.keys()
    if not shared:
        raise UserError(f"no problem has answers in all of {', '.join(e.name for e in evaluations)}")
    return shared


def _strategies_with_fresh(evaluations: Sequence[Evaluation], strategies: Sequence[str]) -> list[str]:
    """Return the strategies that revise and have, in all evaluations, drafts with a fresh answer as control."""
    found: list[str] = []
    for strategy in strategies:
        own = [by_strategy(evaluation.answers)[strategy] for evaluation in evaluations]
        if parse(strategy).revises and all(_fresh(some, False) or _fresh(some, True) for some in own):
            found.append(strategy)
    return found


def _fresh(answers: Answers, right: bool, _ungraded: bool | None = None) -> Outcomes:
    """Return what fresh answers make of the drafts with this verdict; see `fresh_outcomes`."""
    return fresh_outcomes(answers, right)[1]


def _questions(evaluation: Evaluation) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the question and gold answer of each problem, by suite and id."""
    return {(a.suite, a.problem): (a.question, a.gold) for a in evaluation.answers if a.steps}


def _shared_strategies(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[str]]:
    """Return the strategies that all evaluations have, in the order of the first, and the others. First answers are
    compared in any case, so `solve` is never left out.
    """
    counts: dict[str, int] = {}
    for evaluation in evaluations:
        for name in by_strategy(evaluation.answers):
            counts[name] = counts.get(name, 0) + 1
    shared = [name for name, n in counts.items() if n == len(evaluations)]
    return shared, [name for name in counts if name not in (*shared, "solve")]


def _measures(
    answers: Answers, shared: Sequence[str], ks: Sequence[int], with_fresh: Sequence[str]
) -> dict[str, Measure]:
    """Return the measures of first answers, then of each shared strategy; a single strategy's name is left out. First
    answers are those of `solve` if all evaluations have it, as in their tables, otherwise of all strategies. Those of
    the strategies `with_fresh` have the fix and damage rates of fresh answers, too.
    """
    of_strategy = by_strategy(answers)
    firsts = of_strategy.get("solve", []) if "solve" in shared else answers
    found: dict[str, Measure] = {"solve": partial(solve_outcomes, firsts)}
    for k in ks:
        found[f"solve pass@{k}"] = partial(solve_pass_outcomes, firsts, k)
    strategies = [name for name in shared if name != "solve"]
    for strategy in strategies:
        finals = of_strategy.get(strategy, [])
        title = "" if len(strategies) == 1 else f"{strategy}: "
        name = f"{title}accuracy"
        if parse(strategy).revises:
            name = f"{title}refined"
            found[name] = partial(refined_outcomes, finals)
            for rate, outcomes, right in (("fix rate", fix_outcomes, False), ("damage rate", damage_outcomes, True)):
                found[f"{title}{rate}"] = partial(outcomes, finals)
                if strategy in with_fresh:
                    found[f"{title}{rate} of fresh answers"] = partial(_fresh, finals, right)
        else:
            found[name] = partial(final_outcomes, finals)
        for k in ks:
            found[f"{name} pass@{k}"] = partial(final_pass_outcomes, finals, k)
    return found
