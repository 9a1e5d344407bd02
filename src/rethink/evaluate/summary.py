"""The numbers of an evaluation, before and after refinement, each with its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rethink.evaluate.answers import Answer, Reply
from rethink.evaluate.intervals import Difference, Estimate, average, bootstrapped, macro, macro_bootstrapped, rate
from rethink.evaluate.pass_at_k import default_ks, pass_at_k

Outcomes = list[tuple[str, float]]


@dataclass(frozen=True)
class Pass:
    """One pass over the problems, solve or refine: accuracy, pass@k by k, the shares of replies that were cut at the cap
    and in which no answer was found (undefined where the verifier does not say), and the mean numbers of tokens shown and
    sampled per reply."""

    accuracy: Estimate
    pass_at_k: dict[str, Estimate]
    truncated: Estimate
    no_answer: Estimate
    prompt_tokens: Estimate
    tokens: Estimate


@dataclass(frozen=True)
class Transitions:
    """How many refinements, by the verdicts of draft and refinement; what was not judged is in none of them."""

    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_wrong: int


@dataclass(frozen=True)
class Summary:
    """`fix` is the share of wrong drafts that became right, `damage` of right ones that became wrong, `gain` refined
    minus solve accuracy of the same drafts, paired by problem.

    What was not judged, and drafts that were not refined (over-long), are left out and counted; so are `n_skipped`
    problems with an over-long solve prompt. `n_lenient` replies are right by lenient extraction alone. `refine` is None
    where no refinement was asked for.
    """

    solve: Pass
    refine: Pass | None
    gain: Difference
    fix: Estimate
    damage: Estimate
    transitions: Transitions
    n_problems: int
    n_drafts: int
    n_not_judged: int
    n_not_refined: int
    n_skipped: int
    n_lenient: int

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)

    def headline(self) -> dict[str, Any]:
        """The numbers that a training run logs."""
        refine = self.refine or _pass([], "refine", [])
        return {
            "solve": asdict(self.solve.accuracy),
            "refined": asdict(refine.accuracy),
            **{name: asdict(getattr(self, name)) for name in ("gain", "fix", "damage", "transitions")},
            "solve_truncated_frac": self.solve.truncated.value,
            "refine_truncated_frac": refine.truncated.value,
            "solve_tokens": self.solve.tokens.value,
            "refine_tokens": refine.tokens.value,
            **{name: getattr(self, name) for name in ("n_problems", "n_not_judged", "n_not_refined", "n_skipped")},
        }


@dataclass(frozen=True)
class Macro:
    """Unweighted means over benchmarks, as papers report them."""

    solve: Estimate
    refined: Estimate
    gain: Difference
    fix: Estimate
    damage: Estimate
    pass_at_k: dict[str, Estimate]
    refined_pass_at_k: dict[str, Estimate]


def summarize(answers: Sequence[Answer], ks: Sequence[int] = ()) -> Summary:
    """The numbers of all answers together; `ks` are the k of pass@k, by default powers of two."""
    replies = [*replies_of(answers, "solve"), *replies_of(answers, "refine")]
    pairs = list(_pairs(answers))
    counts = {(before, after): 0 for before in (True, False) for after in (True, False)}
    for _, before, after in pairs:
        counts[before, after] += 1
    asked = [a for a in answers if a.draft is not None and a.refinements is not None]
    return Summary(
        solve=_pass(answers, "solve", ks),
        refine=_pass(answers, "refine", ks) if asked else None,
        gain=bootstrapped([(p, after) for p, _, after in pairs], [(p, before) for p, before, _ in pairs]),
        fix=rate(fixed(answers)),
        damage=rate(damaged(answers)),
        transitions=Transitions(counts[True, True], counts[True, False], counts[False, True], counts[False, False]),
        n_problems=len({a.problem for a in answers}),
        n_drafts=sum(a.draft is not None for a in answers),
        n_not_judged=sum(r.right is None for _, r in replies),
        n_not_refined=sum(not a.refinements for a in asked),
        n_skipped=sum(a.draft is None for a in answers),
        n_lenient=sum(r.lenient and r.right is True for _, r in replies),
    )


def by_suite(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The answers of each benchmark, in order of appearance."""
    found: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        found[one.suite].append(one)
    return dict(found)


def macro_summary(suites: dict[str, list[Answer]], ks: Sequence[int] = ()) -> Macro:
    """The means over benchmarks; undefined where a benchmark's own number is."""
    parts = [summarize(answers, ks) for answers in suites.values()]
    pairs = [list(_pairs(answers)) for answers in suites.values()]
    gains = [([(p, after) for p, _, after in some], [(p, before) for p, before, _ in some]) for some in pairs]
    refined = [p.refine for p in parts if p.refine is not None]
    return Macro(
        solve=macro([p.solve.accuracy for p in parts]),
        refined=macro([p.accuracy for p in refined] if len(refined) == len(parts) else []),
        gain=macro_bootstrapped(gains),
        fix=macro([p.fix for p in parts]),
        damage=macro([p.damage for p in parts]),
        pass_at_k=_macro_pass([p.solve for p in parts]),
        refined_pass_at_k=_macro_pass(refined if len(refined) == len(parts) else []),
    )


def replies_of(answers: Iterable[Answer], phase: str) -> Iterator[tuple[str, Reply]]:
    """(problem, reply) for each draft, or for each refinement."""
    for one in answers:
        if phase == "solve" and one.draft is not None:
            yield one.problem, one.draft
        if phase == "refine":
            yield from ((one.problem, refined) for refined in one.refinements or ())


def correct(answers: Iterable[Answer], phase: str) -> Outcomes:
    """(problem, right) for each judged reply of the phase."""
    return [(p, r.right) for p, r in replies_of(answers, phase) if r.right is not None]


def fixed(answers: Iterable[Answer]) -> Outcomes:
    """(problem, right now) for each judged refinement of a wrong draft."""
    return [(p, after) for p, before, after in _pairs(answers) if not before]


def damaged(answers: Iterable[Answer]) -> Outcomes:
    """(problem, wrong now) for each judged refinement of a right draft."""
    return [(p, not after) for p, before, after in _pairs(answers) if before]


def passes(answers: Iterable[Answer], phase: str, k: int) -> Outcomes:
    """(problem, pass@k) for each problem with enough judged replies.

    Of refinements, k are drawn from those of different drafts where each draft has one, and from those of one draft,
    averaged over drafts, where each has several.
    """
    tallies: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for one in answers:
        several = phase == "refine" and len(one.refinements or ()) > 1
        for _, found in replies_of([one], phase):
            if found.right is not None:
                tallies[one.problem, one.index if several else 0].append(found.right)
    values: dict[str, list[float]] = defaultdict(list)
    for (problem, _), rights in tallies.items():
        if len(rights) >= k:
            values[problem].append(pass_at_k(len(rights), sum(rights), k))
    return [(problem, sum(some) / len(some)) for problem, some in values.items()]


def _pairs(answers: Iterable[Answer]) -> Iterator[tuple[str, bool, bool]]:
    """(problem, draft right, refinement right) wherever both were judged."""
    for one in answers:
        for refined in one.refinements or ():
            if one.draft is not None and one.draft.right is not None and refined.right is not None:
                yield one.problem, one.draft.right, refined.right


def _pass(answers: Sequence[Answer], phase: str, ks: Sequence[int]) -> Pass:
    found = list(replies_of(answers, phase))
    return Pass(
        accuracy=rate(correct(answers, phase)),
        pass_at_k={str(k): rate(passes(answers, phase, k)) for k in ks or default_ks(_most(answers, phase))},
        truncated=rate([(p, r.stop == "length") for p, r in found if r.stop is not None]),
        no_answer=rate([(p, r.extracted is None) for p, r in found if r.extracted != ""]),
        prompt_tokens=_mean(found, lambda r: r.n_prompt_tokens),
        tokens=_mean(found, lambda r: r.n_tokens),
    )


def _most(answers: Sequence[Answer], phase: str) -> int:
    """The largest number of replies that a problem, or a draft with several refinements, has."""
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for one in answers:
        several = phase == "refine" and len(one.refinements or ()) > 1
        counts[one.problem, one.index if several else 0] += sum(1 for _ in replies_of([one], phase))
    return max([1, *counts.values()])


def _mean(found: Sequence[tuple[str, Reply]], count: Callable[[Reply], int | None]) -> Estimate:
    return average([(p, n) for p, r in found if (n := count(r)) is not None])


def _macro_pass(parts: Sequence[Pass]) -> dict[str, Estimate]:
    shared = [k for k in (parts[0].pass_at_k if parts else {}) if all(k in p.pass_at_k for p in parts)]
    return {k: macro([p.pass_at_k[k] for p in parts]) for k in shared}
