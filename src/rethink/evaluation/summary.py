"""All numbers of one strategy's answers with their intervals: accuracy before and after refinement, pass@k, and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from rethink.evaluation.answers import Answer, AnswerStep, by_strategy, first_answers
from rethink.evaluation.bounds import NOTE, Measure, bounded_rate, count_kinds, mean
from rethink.evaluation.fresh import fresh_outcomes
from rethink.evaluation.intervals import (
    Difference,
    Estimate,
    Outcome,
    Outcomes,
    average,
    bounded,
    difference,
    macro_average,
    macro_difference,
    rate,
    with_mean_bounds,
)
from rethink.evaluation.outcomes import (
    Pair,
    damage_outcomes,
    draft_pairs,
    drawn_from,
    final_outcomes,
    final_pass_outcomes,
    fix_outcomes,
    gain_outcomes,
    refined_outcomes,
    refined_steps,
    solve_outcomes,
    solve_pass_outcomes,
)
from rethink.evaluation.pass_at_k import default_ks
from rethink.strategies import parse


@dataclass(frozen=True)
class ReplyStats:
    """Statistics of first or of final answers: accuracy; pass@k by k; the shares of replies cut at the token limit and
    without an answer (undefined if the verifier does not say); mean numbers of prompt and sampled tokens per reply.

    `entropy` is that of the distribution from which replies were sampled, in nats per reply: the mean of their negative
    log-probs. It is undefined if these are unknown, and for greedy decoding, top-p and top-k.
    """

    accuracy: Estimate
    pass_at_k: dict[str, Estimate]
    truncated: Estimate
    no_answer: Estimate
    prompt_tokens: Estimate
    tokens: Estimate
    entropy: Estimate


@dataclass(frozen=True)
class Transitions:
    """Numbers of final answers by the verdicts before and after refinement; ungraded ones are not counted."""

    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_wrong: int


@dataclass(frozen=True)
class Cost:
    """Means per problem, except skipped ones: prompt tokens, sampled tokens (undefined if the policy does not report them)
    and calls in sequence. `gain` is the accuracy minus that of a `baseline` of equal cost, paired by problem: a vote over
    `n_baseline` first answers ("vote") or, for strategies that see verdicts, a fresh answer after each wrong one, up
    to `n_baseline` ("tries"). 1.8 stands for one in 20% and two in 80% of all cases. `baseline_is_cheaper` if it cannot
    cost as much. Without such a baseline, and for baselines, these have their default values.
    """

    prompt_tokens: Estimate
    tokens: Estimate
    depth: Estimate
    baseline: str = ""
    n_baseline: float | None = None
    baseline_is_cheaper: bool = False
    gain: Difference | None = None


@dataclass(frozen=True)
class Summary:
    """One strategy on one suite. `accuracy` is that of final answers; `solve` describes first answers.

    For strategies that revise single answers (None for others), `refined` describes the final answers, `fix` is the share
    of wrong first answers that became right, `damage` that of right ones that became wrong, and `gain` the refined minus
    the solve accuracy of the same first answers, paired by problem. These leave out and count ungraded answers
    (`n_not_graded` of `n_replies` first and final answers; `not_graded` counts them by reason, the most frequent first;
    they are in the bounds of all these rates, and in those of no control),
    `n_not_refined` answers that were too long to refine, and `n_skipped` over-long problems. `n_lenient`
    replies are right by lenient extraction only. `notes` adds up the notes of the strategy.

    `fix_fresh` and `damage_fresh` are the controls of `fix` and `damage`: the rates that other first answers to the same
    problems have in place of the refinements, over the same drafts (see `fresh`). They are undefined with one draft per
    problem. `fix_minus_fresh` and `damage_minus_fresh` are the differences, paired by problem.
    """

    strategy: str
    accuracy: Estimate
    pass_at_k: dict[str, Estimate]
    solve: ReplyStats
    refined: ReplyStats | None
    gain: Difference | None
    fix: Estimate | None
    damage: Estimate | None
    fix_fresh: Estimate | None
    damage_fresh: Estimate | None
    fix_minus_fresh: Difference | None
    damage_minus_fresh: Difference | None
    transitions: Transitions | None
    cost: Cost
    n_problems: int
    n_drafts: int
    n_replies: int
    n_not_graded: int
    not_graded: dict[str, int]
    not_graded_by_kind: dict[str, int]
    n_not_refined: int
    n_skipped: int
    n_lenient: int
    notes: dict[str, int]

    @property
    def has_fresh(self) -> bool:
        """True if some draft has a fresh answer as control."""
        return any(rate is not None and rate.n > 0 for rate in (self.fix_fresh, self.damage_fresh))

    def __str__(self) -> str:
        """Return the main numbers on a line each, in percent with 95% intervals."""
        lines = [f"{self.strategy}: accuracy {self.accuracy.percent()} on {self.n_problems} problems"]
        if self.refined is not None and self.fix is not None and self.damage is not None:
            lines.append(f"drafts {self.solve.accuracy.percent()}, refined {self.refined.accuracy.percent()}")
            lines.append(f"wrong drafts fixed {self.fix.percent()}, right drafts damaged {self.damage.percent()}")
        if self.has_fresh and self.fix_fresh is not None and self.damage_fresh is not None:
            shares = f"{self.fix_fresh.percent()} and {self.damage_fresh.percent()}"
            lines.append(f"with a fresh answer in place of the refinement: {shares}")
        if self.n_not_graded:
            lines.append(f"{self.n_not_graded} of {self.n_replies} replies were not graded; {NOTE}")
        return "\n".join(lines)


@dataclass(frozen=True)
class MacroSummary:
    """Unweighted means over suites, as papers report them. `baseline_gain` is the mean gain over baselines of equal
    cost.
    """

    strategy: str
    accuracy: Estimate
    pass_at_k: dict[str, Estimate]
    solve: Estimate
    solve_pass_at_k: dict[str, Estimate]
    refined: Estimate | None
    gain: Difference | None
    fix: Estimate | None
    damage: Estimate | None
    fix_fresh: Estimate | None
    damage_fresh: Estimate | None
    fix_minus_fresh: Difference | None
    damage_minus_fresh: Difference | None
    baseline_gain: Difference | None


def summarize(answers: Sequence[Answer], ks: Sequence[int] = ()) -> Summary:
    """Return all numbers of one strategy's answers. `ks` are the k of pass@k, by default powers of two.

    >>> import rethink
    >>> from rethink.policies.fake import FakePolicy
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=9))
    >>> answers = rethink.evaluate(FakePolicy(lambda prompt, index, version: "1 + 1 = 2 ; 2 + 1 = 3"), problems)
    >>> print(rethink.summarize(answers))
    refine: accuracy 11.1 [2.0, 43.5] on 9 problems
    drafts 11.1 [2.0, 43.5], refined 11.1 [2.0, 43.5]
    wrong drafts fixed 0.0 [0.0, 32.4], right drafts damaged 0.0 [0.0, 79.3]
    """
    strategy = answers[0].strategy if answers else ""
    firsts = first_answers(answers)
    n_finals = 0
    graded = [step for _, step in firsts]
    notes: Counter[str] = Counter()
    problems: set[str] = set()
    skipped: set[str] = set()
    for answer in answers:
        problems.add(answer.problem)
        notes.update(answer.notes)
        n_finals += len(answer.finals)
        graded += [step for step in answer.final_steps if not step.is_first]
        if not answer.finals:
            skipped.add(answer.problem)
    reasons: Counter[str] = Counter()
    n_lenient = 0
    for step in graded:
        if step.right is None:
            reasons[step.reason] += 1
        n_lenient += step.lenient and step.right is True
    final_pass = _final_pass_at_k(answers, ks)
    revises = bool(strategy) and parse(strategy).revises
    revised = answers if revises else []
    pairs = draft_pairs(revised)
    wrong, right = fresh_outcomes(revised, False), fresh_outcomes(revised, True)
    return Summary(
        strategy=strategy,
        accuracy=bounded_rate(partial(final_outcomes, answers)),
        pass_at_k=final_pass,
        solve=_reply_stats(firsts, partial(solve_outcomes, answers), _solve_pass_at_k(answers, ks)),
        refined=_refined_stats(answers, final_pass) if revises else None,
        gain=_gain(answers) if revises else None,
        fix=bounded_rate(partial(fix_outcomes, answers)) if revises else None,
        damage=bounded_rate(partial(damage_outcomes, answers)) if revises else None,
        fix_fresh=rate(wrong[1]) if revises else None,
        damage_fresh=rate(right[1]) if revises else None,
        fix_minus_fresh=difference(*wrong) if revises else None,
        damage_minus_fresh=difference(*right) if revises else None,
        transitions=_transitions(pairs) if revises else None,
        cost=_mean_cost(answers),
        n_problems=len(problems),
        n_drafts=len(firsts),
        n_replies=len(graded),
        n_not_graded=reasons.total(),
        not_graded=dict(reasons.most_common()),
        not_graded_by_kind=count_kinds(reasons),
        n_not_refined=n_finals - len(refined_steps(answers)) if revises else 0,
        n_skipped=len(skipped),
        n_lenient=n_lenient,
        notes=dict(notes),
    )


def evaluation_metrics(answers: Sequence[Answer], ks: Sequence[int] = ()) -> dict[str, Any]:
    """Return the numbers that a training run logs: those of the first strategy that revises single answers, or else of the
    first one. If any strategies besides refine and solve ran, the accuracy of each is added.
    """
    shown: Summary | None = None
    accuracy: dict[str, Any] = {}
    for name, some in by_strategy(answers).items():
        summary = summarize(some, ks)
        accuracy[name] = asdict(summary.accuracy)
        if shown is None or (shown.refined is None and summary.refined is not None):
            shown = summary
    found = shown or summarize([])
    refined = found.refined or _reply_stats([], lambda _: [], {})
    record = {
        "solve": asdict(found.solve.accuracy),
        "refined": asdict(refined.accuracy),
        "gain": asdict(found.gain or difference([], [])),
        "fix": asdict(found.fix or rate([])),
        "damage": asdict(found.damage or rate([])),
        "fix_fresh": asdict(found.fix_fresh or rate([])),
        "damage_fresh": asdict(found.damage_fresh or rate([])),
        "transitions": asdict(found.transitions or _transitions([])),
        "solve_truncated_frac": found.solve.truncated.value,
        "refine_truncated_frac": refined.truncated.value,
        "solve_tokens": found.solve.tokens.value,
        "refine_tokens": refined.tokens.value,
        "solve_entropy_nats": found.solve.entropy.value,
        "n_problems": found.n_problems,
        "n_not_graded": found.n_not_graded,
        "n_not_refined": found.n_not_refined,
        "n_skipped": found.n_skipped,
    }
    return record if accuracy.keys() <= {"refine", "solve"} else {**record, "strategies": accuracy}


def macro_summary(summaries: Sequence[Summary], suites: Sequence[Sequence[Answer]]) -> MacroSummary:
    """Return one strategy's means over suites, undefined where a suite's number is. `suites` are the answers of each
    summary.
    """

    def mean_of(name: str) -> Estimate:
        return macro_average(list(map(attrgetter(name), summaries)))

    def minus_fresh(right: bool) -> Difference:
        return macro_difference([fresh_outcomes(answers, right) for answers in suites])

    revises = all(summary.refined is not None for summary in summaries)
    pairs = [_after_and_before(draft_pairs(answers)) for answers in suites]
    return MacroSummary(
        strategy=summaries[0].strategy,
        accuracy=mean_of("accuracy"),
        pass_at_k=_macro_pass_at_k(summaries, "pass_at_k"),
        solve=mean_of("solve.accuracy"),
        solve_pass_at_k=_macro_pass_at_k(summaries, "solve.pass_at_k"),
        refined=mean_of("refined.accuracy") if revises else None,
        gain=with_mean_bounds(macro_difference(pairs), list(map(_gain, suites))) if revises else None,
        fix=mean_of("fix") if revises else None,
        damage=mean_of("damage") if revises else None,
        fix_fresh=mean_of("fix_fresh") if revises else None,
        damage_fresh=mean_of("damage_fresh") if revises else None,
        fix_minus_fresh=minus_fresh(False) if revises else None,
        damage_minus_fresh=minus_fresh(True) if revises else None,
        baseline_gain=None,
    )


def _gain(answers: Sequence[Answer]) -> Difference:
    """Return the refined minus the solve accuracy of the same first answers."""
    found = difference(*_after_and_before(draft_pairs(answers)))
    return bounded(found, mean(gain_outcomes(answers, False)), mean(gain_outcomes(answers, True)))


def _after_and_before(pairs: Sequence[Pair]) -> tuple[Outcomes, Outcomes]:
    """Return the outcomes after refinement, and those before."""
    return [(p, after) for p, _, after in pairs], [(p, before) for p, before, _ in pairs]


def _transitions(pairs: Iterable[Pair]) -> Transitions:
    counts = Counter((before, after) for _, before, after in pairs)
    return Transitions(counts[True, True], counts[True, False], counts[False, True], counts[False, False])


def _final_pass_at_k(answers: Sequence[Answer], ks: Sequence[int]) -> dict[str, Estimate]:
    """Return the pass@k of final answers by k."""
    most = max((len(shares) for _, shares in drawn_from(answers)), default=1)
    return {str(k): bounded_rate(partial(final_pass_outcomes, answers, k)) for k in ks or default_ks(most)}


def _solve_pass_at_k(answers: Sequence[Answer], ks: Sequence[int]) -> dict[str, Estimate]:
    """Return the pass@k of first answers by k."""
    most = max(Counter(problem for problem, _ in first_answers(answers)).values(), default=1)
    return {str(k): bounded_rate(partial(solve_pass_outcomes, answers, k)) for k in ks or default_ks(most)}


def _reply_stats(
    replies: Sequence[tuple[str, AnswerStep]], measure: Measure, pass_at_k: dict[str, Estimate]
) -> ReplyStats:
    cut: list[Outcome] = []
    none: list[Outcome] = []
    nats: list[Outcome] = []
    for problem, step in replies:
        if step.stop is not None:
            cut.append((problem, step.stop == "length"))
        if step.extracted != "":
            none.append((problem, step.extracted is None))
        if step.log_prob is not None:
            nats.append((problem, 0.0 - step.log_prob))
    return ReplyStats(bounded_rate(measure), pass_at_k, rate(cut), rate(none), *_mean_tokens(replies), average(nats))


def _refined_stats(answers: Sequence[Answer], pass_at_k: dict[str, Estimate]) -> ReplyStats:
    return _reply_stats(refined_steps(answers), partial(refined_outcomes, answers), pass_at_k)


def _mean_cost(answers: Iterable[Answer]) -> Cost:
    answered = [(answer.problem, answer) for answer in answers if answer.steps]
    return Cost(*_mean_tokens(answered), average([(problem, answer.depth) for problem, answer in answered]))


def _mean_tokens(found: Iterable[tuple[str, AnswerStep | Answer]]) -> tuple[Estimate, Estimate]:
    """Return the mean numbers of prompt and sampled tokens, over those that are known."""
    shown: list[Outcome] = []
    sampled: list[Outcome] = []
    for problem, answer in found:
        if answer.n_prompt_tokens is not None:
            shown.append((problem, answer.n_prompt_tokens))
        if answer.n_tokens is not None:
            sampled.append((problem, answer.n_tokens))
    return average(shown), average(sampled)


def _macro_pass_at_k(summaries: Sequence[Summary], name: str) -> dict[str, Estimate]:
    """Return the mean pass@k for each k that all summaries have; `name` is the field."""
    rates = list(map(attrgetter(name), summaries))
    found: dict[str, Estimate] = {}
    for k in rates[0] if rates else ():
        if all(k in own for own in rates):
            found[k] = macro_average([own[k] for own in rates])
    return found
