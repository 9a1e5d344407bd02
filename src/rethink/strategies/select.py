"""One of several answers: by majority, or by a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from rethink.errors import UserError
from rethink.seeds import rng
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, answers_of, count_cut, reseeded
from rethink.types import Group, Problem, Sample


def vote(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The answer that most candidates give (self-consistency, arXiv 2203.11171). Answers are compared as the grader would;
    a reply without an answer has no vote; chance breaks ties, and `tied` keeps one candidate of each answer. Where nobody
    has an answer the choice is among all. Raises UserError for problems whose answers cannot be compared."""
    found = []
    for a in attempts:
        classes = by_answer(a.problem, a.answers)
        most = max((len(members) for members in classes), default=0)
        tied = tuple(members[0] for members in classes if len(members) == most)
        found.append(_chosen(setup, a, tied or a.answers))
    return found


def by_answer(problem: Problem, samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples that have an answer, those with the same one together, in order of appearance."""
    check_comparable(problem)
    assert problem.extract_answer is not None
    classes: list[tuple[str, list[Sample]]] = []
    for sample in samples:
        answer = problem.extract_answer(sample.text)
        if answer is None:
            continue
        members = _class_of(problem, answer, classes)
        if members is None:
            classes.append((answer, [sample]))
        else:
            members.append(sample)
    return [members for _, members in classes]


def _class_of(problem: Problem, answer: str, classes: Sequence[tuple[str, list[Sample]]]) -> list[Sample] | None:
    """The samples with this answer: spelled alike, or else equal."""
    assert problem.equal_answers is not None
    for other, members in classes:
        if other == answer:
            return members
    for other, members in classes:
        if problem.equal_answers(answer, other):
            return members
    return None


def check_comparable(problem: Problem, what: str = "a vote") -> None:
    """Raise UserError where nothing says what the answer in a reply is."""
    if problem.extract_answer is None or problem.equal_answers is None:
        raise UserError(
            f"{what} compares answers with one another, and the verifier of {problem.id} does not say what the answer in a "
            "reply is; use one of the verifiers here"
        )


def best(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The candidate that the judge rates highest, each rated on its own; as in `vote`, chance breaks ties. A rating that
    cannot be read is below all others. Raises UserError where there is no judge."""
    check_judge(setup.judge is not None)
    assert setup.judge is not None
    asks = [setup.prompts.ask_to_rate(s) for s in answers_of(attempts)]
    groups = iter(setup.judge.sample(asks, 1) if asks else [])
    return [_rated(setup, a, list(islice(groups, len(a.answers)))) for a in attempts]


def _rated(setup: Setup, attempt: Attempt, groups: Sequence[Group]) -> Attempt:
    """The attempt after the ratings of its answers, each a group of one, or of none where its prompt was over-long."""
    ratings: list[float] = []
    used: list[Sample] = []
    shown: list[Sample] = []
    for answer, group in zip(attempt.answers, groups, strict=True):
        ratings.append(rating(group[0].text) if group else -1.0)
        used += group
        if group:
            shown.append(answer)
    tied = tuple(s for s, r in zip(attempt.answers, ratings, strict=True) if r == max(ratings))
    seen = count_cut(setup, attempt, shown).answered(attempt.answers, used, depth=1 if used else 0)
    return _chosen(setup, seen.noted(OVERLONG, len(groups) - len(shown)), tied)


def check_judge(there: bool) -> None:
    """Raise UserError where there is no judge."""
    if not there:
        raise UserError('"best" needs a judge: name a model with judge.path=..., or "self" for the model itself')


def rating(text: str) -> float:
    """The last number in a box, if it is from 0 to 10; else -1."""
    found = re.findall(r"\\boxed\{\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*\}", text)
    return float(found[-1]) if found and float(found[-1]) <= 10 else -1.0


def _chosen(setup: Setup, attempt: Attempt, tied: Group) -> Attempt:
    if not tied:
        return attempt
    one = rng(reseeded(setup.prompts, "repeat", attempt.repeat).seed, attempt.problem.id, "tie").choice(tied)
    return attempt.answered((one,), (), depth=0, tied=tied)
