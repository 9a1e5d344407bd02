"""The outcomes that rates are computed from: a problem, and whether a reply to it is right (or the share that is).

`ungraded` is what replies that were not graded count as: None leaves them out; False and True give the lowest and the
highest rate that they allow. For an accuracy, they are all wrong, or all right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from rethink.evaluation.answers import Answer, AnswerStep, first_answers
from rethink.evaluation.intervals import Outcome
from rethink.evaluation.pass_at_k import expected_pass_at_k, pass_at_k
from rethink.strategies import parse
from rethink.strategies.attempt import OVERLONG

Pair = tuple[str, bool, bool]
"""(problem, first answer right, final answer right)."""


def final_outcomes(answers: Iterable[Answer], ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, share of the final answers that are right) for each answer with a verdict."""
    found: list[Outcome] = []
    for answer in answers:
        share = answer.share_right(ungraded)
        if share is not None:
            found.append((answer.problem, share))
    return found


def solve_outcomes(answers: Sequence[Answer], ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, right) for each graded first answer."""
    return _reply_outcomes(first_answers(answers), ungraded)


def refined_outcomes(answers: Iterable[Answer], ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, right) for each graded final answer of a strategy that revises single answers."""
    return _reply_outcomes(refined_steps(answers), ungraded)


def refined_steps(answers: Iterable[Answer]) -> list[tuple[str, AnswerStep]]:
    """Return (problem, final answer), without first answers that were too long to refine."""
    found: list[tuple[str, AnswerStep]] = []
    for answer in answers:
        for step in answer.final_steps:
            if not _is_unrefined(answer, step):
                found.append((answer.problem, step))
    return found


def mostly_unrefined(answers: Iterable[Answer]) -> list[str]:
    """Return an alarm if most drafts were too long to refine, so that the rates of refinements are about few of them."""
    n, n_unrefined = 0, 0
    for answer in answers:
        finals = answer.final_steps if parse(answer.strategy).revises else []
        n += len(finals)
        n_unrefined += sum(_is_unrefined(answer, step) for step in finals)
    if 2 * n_unrefined <= n:
        return []
    return [
        f"most drafts were not refined: {n_unrefined} of {n} were too long to refine (sampler.max_prompt_tokens, or the "
        "model's positions); refined accuracy, gain, fix and damage rates are about the others"
    ]


def draft_pairs(answers: Iterable[Answer]) -> list[Pair]:
    """Return each final answer with its first answer, if both were graded.

    A first answer that the strategy kept, though it could have revised it, is paired with itself.
    """
    found: list[Pair] = []
    for problem, draft, final in _revisions(answers):
        if draft.right is not None and final.right is not None:
            found.append((problem, draft.right, final.right))
    return found


def completed_pairs(answers: Iterable[Answer], after: bool, before: Callable[[bool], bool]) -> list[Pair]:
    """Return each final answer with its first answer. `after` is the verdict of final answers that were not graded;
    `before` returns that of first answers that were not graded, from the verdict of the final one.
    """
    found: list[Pair] = []
    for problem, draft, final in _revisions(answers):
        now = after if final.right is None else final.right
        then = draft.right
        if then is None:
            then = now if draft is final else before(now)
        found.append((problem, then, now))
    return found


def fix_outcomes(answers: Iterable[Answer], ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, right now) for each graded final answer whose first answer was wrong."""
    if ungraded is None:
        pairs = draft_pairs(answers)
    else:  # an unknown draft counts as changed for the highest rate, and as unchanged for the lowest
        pairs = completed_pairs(answers, after=ungraded, before=lambda now: now != ungraded)
    return [(problem, now) for problem, then, now in pairs if not then]


def damage_outcomes(answers: Iterable[Answer], ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, wrong now) for each graded final answer whose first answer was right."""
    if ungraded is None:
        pairs = draft_pairs(answers)
    else:
        pairs = completed_pairs(answers, after=not ungraded, before=lambda now: now != ungraded)
    return [(problem, not now) for problem, then, now in pairs if then]


def gain_outcomes(answers: Iterable[Answer], ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, 1 if it was made right, -1 if it was made wrong, else 0) for each graded final answer."""
    if ungraded is None:
        pairs = draft_pairs(answers)
    else:
        pairs = completed_pairs(answers, after=ungraded, before=lambda _: not ungraded)
    return [(problem, now - then) for problem, then, now in pairs]


def solve_pass_outcomes(answers: Sequence[Answer], k: int, ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, pass@k) of first answers, for each problem with at least k graded ones."""
    tallies: dict[str, list[bool]] = defaultdict(list)
    for problem, right in _reply_outcomes(first_answers(answers), ungraded):
        tallies[problem].append(bool(right))
    return [(p, pass_at_k(len(some), sum(some), k)) for p, some in tallies.items() if len(some) >= k]


def final_pass_outcomes(answers: Iterable[Answer], k: int, ungraded: bool | None = None) -> list[Outcome]:
    """Return (problem, pass@k) of final answers, for each problem with at least k graded ones.

    If each attempt has one answer, the k are drawn from different attempts; if each has several, from one attempt, averaged
    over attempts. An answer that chance chose among others counts by their share of right ones.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for problem, shares in drawn_from(answers, ungraded):
        if len(shares) >= k:
            values[problem].append(expected_pass_at_k(shares, k))
    return [(problem, sum(some) / len(some)) for problem, some in values.items()]


def drawn_from(answers: Iterable[Answer], ungraded: bool | None = None) -> list[tuple[str, list[float]]]:
    """Return (problem, shares right) for each set of answers from which the k of pass@k are drawn."""
    tallies: dict[tuple[str, int], list[float]] = defaultdict(list)
    for answer in answers:
        if len(answer.finals) > 1 and not answer.tied:
            for step in answer.final_steps:
                right = ungraded if step.right is None else step.right
                if right is not None:
                    tallies[answer.problem, answer.repeat].append(float(right))
        else:
            share = answer.share_right(ungraded)
            if share is not None:
                tallies[answer.problem, -1].append(share)
    return [(problem, shares) for (problem, _), shares in tallies.items()]


def _reply_outcomes(replies: Iterable[tuple[str, AnswerStep]], ungraded: bool | None) -> list[Outcome]:
    found: list[Outcome] = []
    for problem, step in replies:
        right = ungraded if step.right is None else step.right
        if right is not None:
            found.append((problem, right))
    return found


def _revisions(answers: Iterable[Answer]) -> list[tuple[str, AnswerStep, AnswerStep]]:
    """Return (problem, first answer, final answer) for each final answer that could revise a first one."""
    found: list[tuple[str, AnswerStep, AnswerStep]] = []
    for answer in answers:
        for step in answer.final_steps:
            draft = _draft_of(answer, step)
            if draft is not None:
                found.append((answer.problem, draft, step))
    return found


def revised_draft(answer: Answer, final: AnswerStep) -> AnswerStep | None:
    """Return the first answer that a final answer revises, or is, if the strategy kept it though it could have revised it.
    None for strategies that do not revise single answers, and if it was too long to refine.
    """
    return _draft_of(answer, final) if parse(answer.strategy).revises else None


def _draft_of(answer: Answer, final: AnswerStep) -> AnswerStep | None:
    if _is_unrefined(answer, final):
        return None
    return final if final.is_first else None if final.draft is None else answer.steps[final.draft]


def _is_unrefined(answer: Answer, step: AnswerStep) -> bool:
    """Return whether a final answer is a first answer that was too long to refine."""
    return step.is_first and bool(answer.notes.get(OVERLONG))
