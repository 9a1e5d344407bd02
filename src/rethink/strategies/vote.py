"""Majority vote: the answer that most candidates give (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.errors import UserError
from rethink.seeds import rng
from rethink.strategies.attempt import Attempt, Setup, reseed
from rethink.types import Group, Problem, Sample


def vote(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Replace the candidates of each attempt by the one whose answer is most frequent.

    Answers are compared as the grader compares them. A reply without an answer has no vote. Ties are broken at random;
    `tied` holds one candidate of each tied answer. Without any answer, one of all candidates is picked. Raise UserError
    for problems whose answers cannot be compared."""
    voted = []
    for a in attempts:
        classes = group_by_answer(a.problem, a.answers)
        most = max((len(members) for members in classes), default=0)
        tied = tuple(members[0] for members in classes if len(members) == most)
        voted.append(pick_one(setup, a, tied or a.answers))
    return voted


def group_by_answer(problem: Problem, samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the samples that have an answer, grouped by equal answers, in order of appearance."""
    check_comparable(problem)
    assert problem.extract_answer is not None
    classes: list[tuple[str, list[Sample]]] = []
    for sample in samples:
        answer = problem.extract_answer(sample.final_text)
        if answer is None:
            continue
        members = _class_of(problem, answer, classes)
        if members is None:
            classes.append((answer, [sample]))
        else:
            members.append(sample)
    return [members for _, members in classes]


def _class_of(problem: Problem, answer: str, classes: Sequence[tuple[str, list[Sample]]]) -> list[Sample] | None:
    """Return the samples with this answer. Compare texts first: comparing values may start a worker process."""
    assert problem.equal_answers is not None
    for other, members in classes:
        if other == answer:
            return members
    for other, members in classes:
        if problem.equal_answers(answer, other):
            return members
    return None


def check_comparable(problem: Problem, what: str = "a vote") -> None:
    """Raise UserError if the problem's verifier cannot extract and compare answers."""
    if problem.extract_answer is None or problem.equal_answers is None:
        raise UserError(
            f"{what} compares answers with one another, but the verifier of {problem.id} does not extract the answer from "
            "a reply; use one of the built-in verifiers"
        )


def pick_one(setup: Setup, attempt: Attempt, tied: Group) -> Attempt:
    """Return the attempt with one of the tied candidates as its answer, picked by a seed from ids alone."""
    if not tied:
        return attempt
    seed = reseed(setup.prompts, "repeat", attempt.repeat).seed
    answer = rng(seed, attempt.problem.id, "tie").choice(tied)
    return attempt.with_answers((answer,), (), depth=0, tied=tied)
