"""The numbers of a strategy's answers, each with its interval: before and after looking back, and what it cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from rethink.evaluation.answers import Answer, AnswerStep, by_strategy, first_answers, graded_outcomes
from rethink.evaluation.intervals import (
    Difference,
    Estimate,
    average,
    bootstrapped,
    macro_average,
    macro_bootstrapped,
    rate,
)
from rethink.evaluation.pass_at_k import default_ks, pass_at_k
from rethink.strategies import parse
from rethink.strategies.attempt import OVERLONG

Outcomes = list[tuple[str, float]]
"""(problem, value) pairs."""


@dataclass(frozen=True)
class ReplyStats:
    """Replies of one kind, first or final answers: accuracy, pass@k by k, the shares of replies that were cut at the cap
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
    """How many final answers, by the verdicts of first and final one; what was not graded is in none of them."""

    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_wrong: int


@dataclass(frozen=True)
class Cost:
    """Means per problem, skipped ones left out: tokens shown and sampled (undefined where the policy does not state them)
    and calls in sequence. `gain` is the accuracy over that of the vote of `n_vote` first answers, as many as the sampled
    tokens buy; paired by problem. None where there is no such vote, as for the vote itself."""

    prompt_tokens: Estimate
    tokens: Estimate
    depth: Estimate
    n_vote: int | None = None
    gain: Difference | None = None


@dataclass(frozen=True)
class Summary:
    """A strategy on one benchmark. `accuracy` is that of its final answers, `solve` tells of the first ones.

    For strategies that look back on single answers (None for others): `refined` tells of the final answers, `fix` is the
    share of wrong first answers that became right, `damage` of right ones that became wrong, `gain` refined minus solve
    accuracy of the same first answers, paired by problem. What was not graded, and `n_not_refined` answers that were
    over-long to look back on, are left out of these and counted; so are `n_skipped` attempts whose problem was over-long.
    `n_lenient` replies are right by lenient extraction alone. `notes` counts what the strategy noted.
    """

    strategy: str
    accuracy: Estimate
    pass_at_k: dict[str, Estimate]
    solve: ReplyStats
    refined: ReplyStats | None
    gain: Difference | None
    fix: Estimate | None
    damage: Estimate | None
    transitions: Transitions | None
    cost: Cost
    n_problems: int
    n_drafts: int
    n_not_graded: int
    n_not_refined: int
    n_skipped: int
    n_lenient: int
    notes: dict[str, int]


@dataclass(frozen=True)
class MacroSummary:
    """Unweighted means over benchmarks, as papers report them; `vote_gain` is that over votes of equal cost."""

    strategy: str
    accuracy: Estimate
    pass_at_k: dict[str, Estimate]
    solve: Estimate
    solve_pass_at_k: dict[str, Estimate]
    refined: Estimate | None
    gain: Difference | None
    fix: Estimate | None
    damage: Estimate | None
    vote_gain: Difference | None


def summarize(answers: Sequence[Answer], ks: Sequence[int] = ()) -> Summary:
    """Return the numbers of one strategy's answers; `ks` are the k of pass@k, by default powers of two."""
    strategy = answers[0].strategy if answers else ""
    firsts = first_answers(answers)
    n_finals = 0
    graded = [step for _, step in firsts]
    notes: Counter[str] = Counter()
    problems: set[str] = set()
    skipped: set[str] = set()
    for one in answers:
        problems.add(one.problem)
        notes.update(one.notes)
        n_finals += len(one.finals)
        graded += [step for step in one.final_steps if not step.is_first]
        if not one.finals:
            skipped.add(one.problem)
    n_lenient = n_not_graded = 0
    for step in graded:
        n_not_graded += step.right is None
        n_lenient += step.lenient and step.right is True
    final_pass = final_pass_at_k(answers, ks)
    revises = bool(strategy) and parse(strategy).revises
    pairs = draft_pairs(answers) if revises else []
    return Summary(
        strategy=strategy,
        accuracy=rate(graded_outcomes(answers)),
        pass_at_k=final_pass,
        solve=_pass(firsts, _rates(firsts, ks)),
        refined=_pass(refined_steps(answers), final_pass) if revises else None,
        gain=bootstrapped(*_before_and_after(pairs)) if revises else None,
        fix=rate(fix_outcomes(answers)) if revises else None,
        damage=rate(damage_outcomes(answers)) if revises else None,
        transitions=_transitions(pairs) if revises else None,
        cost=_cost(answers),
        n_problems=len(problems),
        n_drafts=len(firsts),
        n_not_graded=n_not_graded,
        n_not_refined=n_finals - len(refined_steps(answers)) if revises else 0,
        n_skipped=len(skipped),
        n_lenient=n_lenient,
        notes=dict(notes),
    )


def evaluation_metrics(answers: Sequence[Answer], ks: Sequence[int] = ()) -> dict[str, Any]:
    """Return the numbers that a training run logs: those of the first strategy that looks back on single answers, else of
    the first one; with the accuracy of each where there are others than refine and solve."""
    shown: Summary | None = None
    accuracy: dict[str, Any] = {}
    for name, some in by_strategy(answers).items():
        summary = summarize(some, ks)
        accuracy[name] = asdict(summary.accuracy)
        if shown is None or (shown.refined is None and summary.refined is not None):
            shown = summary
    found = shown or summarize([])
    refined = found.refined or _pass([], {})
    record = {
        "solve": asdict(found.solve.accuracy),
        "refined": asdict(refined.accuracy),
        "gain": asdict(found.gain or bootstrapped([], [])),
        "fix": asdict(found.fix or rate([])),
        "damage": asdict(found.damage or rate([])),
        "transitions": asdict(found.transitions or _transitions([])),
        "solve_truncated_frac": found.solve.truncated.value,
        "refine_truncated_frac": refined.truncated.value,
        "solve_tokens": found.solve.tokens.value,
        "refine_tokens": refined.tokens.value,
        "n_problems": found.n_problems,
        "n_not_graded": found.n_not_graded,
        "n_not_refined": found.n_not_refined,
        "n_skipped": found.n_skipped,
    }
    return record if accuracy.keys() <= {"refine", "solve"} else {**record, "strategies": accuracy}


def macro_summary(parts: Sequence[Summary], suites: Sequence[Sequence[Answer]]) -> MacroSummary:
    """Return the means over benchmarks of one strategy; undefined where a benchmark's number is. `suites` are the answers
    that the parts were made of."""

    def mean_of(name: str) -> Estimate:
        return macro_average(list(map(attrgetter(name), parts)))

    revises = all(part.refined is not None for part in parts)
    pairs = [_before_and_after(draft_pairs(answers)) for answers in suites]
    return MacroSummary(
        strategy=parts[0].strategy,
        accuracy=mean_of("accuracy"),
        pass_at_k=_macro_pass(parts, "pass_at_k"),
        solve=mean_of("solve.accuracy"),
        solve_pass_at_k=_macro_pass(parts, "solve.pass_at_k"),
        refined=mean_of("refined.accuracy") if revises else None,
        gain=macro_bootstrapped(pairs) if revises else None,
        fix=mean_of("fix") if revises else None,
        damage=mean_of("damage") if revises else None,
        vote_gain=None,
    )


def solve_outcomes(answers: Sequence[Answer]) -> Outcomes:
    """(problem, right) for each graded first answer."""
    return _graded(first_answers(answers))


def refined_outcomes(answers: Iterable[Answer]) -> Outcomes:
    """(problem, right) for each graded final answer of a strategy that looks back on single ones."""
    return _graded(refined_steps(answers))


def refined_steps(answers: Iterable[Answer]) -> list[tuple[str, AnswerStep]]:
    """(problem, final answer), without those that stand because they were over-long to look back on."""
    found: list[tuple[str, AnswerStep]] = []
    for one in answers:
        for step in one.final_steps:
            if not _is_unrefined(one, step):
                found.append((one.problem, step))
    return found


def draft_pairs(answers: Iterable[Answer]) -> list[tuple[str, bool, bool]]:
    """(problem, first answer right, final answer right) where one goes back to the other and both were graded.

    An answer that a strategy let stand, though it could have looked back on it, is both."""
    found: list[tuple[str, bool, bool]] = []
    for one in answers:
        for step in one.final_steps:
            draft = step if step.is_first else None if step.draft is None else one.steps[step.draft]
            if draft is None or draft.right is None or step.right is None or _is_unrefined(one, step):
                continue
            found.append((one.problem, draft.right, step.right))
    return found


def fix_outcomes(answers: Iterable[Answer]) -> Outcomes:
    """(problem, right now) for each graded final answer that goes back to a wrong first one."""
    return [(problem, after) for problem, before, after in draft_pairs(answers) if not before]


def damage_outcomes(answers: Iterable[Answer]) -> Outcomes:
    """(problem, wrong now) for each graded final answer that goes back to a right first one."""
    return [(problem, not after) for problem, before, after in draft_pairs(answers) if before]


def solve_pass_outcomes(answers: Sequence[Answer], k: int) -> Outcomes:
    """(problem, pass@k) of first answers, for each problem with enough graded ones."""
    return _passes(first_answers(answers), k)


def final_pass_outcomes(answers: Iterable[Answer], k: int) -> Outcomes:
    """(problem, pass@k) of final answers, for each problem with enough graded ones.

    k are drawn from the attempts at a problem where each has one answer, and from the answers of one attempt, averaged
    over attempts, where each has several. One that chance chose among others is right by their share."""
    values: dict[str, list[float]] = defaultdict(list)
    for problem, shares in _tallies(answers):
        if len(shares) >= k:
            values[problem].append(expected_pass_at_k(shares, k))
    return [(problem, sum(some) / len(some)) for problem, some in values.items()]


def final_pass_at_k(answers: Sequence[Answer], ks: Sequence[int]) -> dict[str, Estimate]:
    """The rate of pass@k of final answers, by k."""
    most = max((len(shares) for _, shares in _tallies(answers)), default=1)
    return {str(k): rate(final_pass_outcomes(answers, k)) for k in ks or default_ks(most)}


def expected_pass_at_k(shares: Sequence[float], k: int) -> float:
    """The chance that one of k answers is right, drawn from n without order, where each is right by its share.

    The mean over all k of n of the chance that not all are wrong: 1 - e_k(1 - shares) / C(n, k), with the elementary
    symmetric polynomial e_k; `pass_at_k` where all shares are 0 or 1."""
    n_right = sum(share == 1 for share in shares)
    if all(share in (0, 1) for share in shares):
        return pass_at_k(len(shares), n_right, k)
    # Row i of the recursion, divided by C(i, j): the mean over all j of the first i answers that all j are wrong.
    all_wrong = [1.0] + [0.0] * k
    for i, share in enumerate(shares, start=1):
        for j in range(min(i, k), 0, -1):
            all_wrong[j] = (all_wrong[j] * (i - j) + all_wrong[j - 1] * (1 - share) * j) / i
    return 1 - all_wrong[k]


def _tallies(answers: Iterable[Answer]) -> list[tuple[str, list[float]]]:
    """(problem, shares right) of the answers among which k are drawn."""
    tallies: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in answers:
        if len(one.finals) > 1 and not one.tied:
            tallies[one.problem, one.repeat] += [float(s.right) for s in one.final_steps if s.right is not None]
        elif one.right is not None:
            tallies[one.problem, -1].append(one.right)
    return [(problem, shares) for (problem, _), shares in tallies.items()]


def _passes(replies: Iterable[tuple[str, AnswerStep]], k: int) -> Outcomes:
    tallies: dict[str, list[bool]] = defaultdict(list)
    for problem, step in replies:
        if step.right is not None:
            tallies[problem].append(step.right)
    return [(p, pass_at_k(len(some), sum(some), k)) for p, some in tallies.items() if len(some) >= k]


def _rates(replies: Sequence[tuple[str, AnswerStep]], ks: Sequence[int]) -> dict[str, Estimate]:
    most = max(Counter(problem for problem, _ in replies).values(), default=1)
    return {str(k): rate(_passes(replies, k)) for k in ks or default_ks(most)}


def _graded(replies: Iterable[tuple[str, AnswerStep]]) -> Outcomes:
    return [(problem, step.right) for problem, step in replies if step.right is not None]


def _is_unrefined(answer: Answer, step: AnswerStep) -> bool:
    """Whether a first answer stands at the end as it was over-long to look back on."""
    return step.is_first and bool(answer.notes.get(OVERLONG))


def _before_and_after(pairs: Sequence[tuple[str, bool, bool]]) -> tuple[Outcomes, Outcomes]:
    """The outcomes after, and those before."""
    return [(p, after) for p, _, after in pairs], [(p, before) for p, before, _ in pairs]


def _transitions(pairs: Iterable[tuple[str, bool, bool]]) -> Transitions:
    counts = Counter((before, after) for _, before, after in pairs)
    return Transitions(counts[True, True], counts[True, False], counts[False, True], counts[False, False])


def _pass(replies: Sequence[tuple[str, AnswerStep]], pass_at_k: dict[str, Estimate]) -> ReplyStats:
    cut: Outcomes = []
    none: Outcomes = []
    for problem, step in replies:
        if step.stop is not None:
            cut.append((problem, step.stop == "length"))
        if step.extracted != "":
            none.append((problem, step.extracted is None))
    return ReplyStats(rate(_graded(replies)), pass_at_k, rate(cut), rate(none), *_tokens(replies))


def _cost(answers: Iterable[Answer]) -> Cost:
    answered = [(one.problem, one) for one in answers if one.steps]
    return Cost(*_tokens(answered), average([(problem, one.depth) for problem, one in answered]))


def _tokens(found: Iterable[tuple[str, AnswerStep | Answer]]) -> tuple[Estimate, Estimate]:
    """The mean numbers of tokens shown and sampled, where they are known."""
    shown: Outcomes = []
    sampled: Outcomes = []
    for problem, one in found:
        if one.n_prompt_tokens is not None:
            shown.append((problem, one.n_prompt_tokens))
        if one.n_tokens is not None:
            sampled.append((problem, one.n_tokens))
    return average(shown), average(sampled)


def _macro_pass(parts: Sequence[Summary], name: str) -> dict[str, Estimate]:
    """The means of pass@k, for each k that all parts have; `name` is that of the field."""
    rates = list(map(attrgetter(name), parts))
    found: dict[str, Estimate] = {}
    for k in rates[0] if rates else ():
        if all(k in own for own in rates):
            found[k] = macro_average([own[k] for own in rates])
    return found
