"""One of several answers: by majority, or by a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rethink.errors import UserError
from rethink.policies.base import Policy
from rethink.seeds import rng
from rethink.strategies.attempt import Attempt, Setup, count_cut, count_skipped
from rethink.types import Group, Problem, Sample


def vote(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The answer that most candidates give (self-consistency, arXiv 2203.11171). Answers are compared as the grader would;
    a reply without an answer has no vote; chance breaks ties, and `tied` keeps one candidate of each answer. Where nobody
    has an answer the choice is among all. Raises UserError for problems whose answers cannot be compared."""
    found = []
    for a in attempts:
        classes = by_answer(a.problem, a.answers)
        most = max(map(len, classes), default=0)
        found.append(_chosen(setup, a, tuple(c[0] for c in classes if len(c) == most) or a.answers))
    return found


def by_answer(problem: Problem, samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples that have an answer, those with the same one together, in order of appearance."""
    if problem.answer is None or problem.same is None:
        raise UserError(
            f"answers to {problem.id} cannot be compared with one another, so there is no vote: its verifier does not say "
            "what the answer in a reply is"
        )
    classes: list[tuple[str, list[Sample]]] = []
    for sample in samples:
        answer = problem.answer(sample.text)
        if answer is None:
            continue
        members = next((some for other, some in classes if other == answer), None)
        if members is None:
            members = next((some for other, some in classes if problem.same(answer, other)), None)
        if members is None:
            classes.append((answer, [sample]))
        else:
            members.append(sample)
    return [members for _, members in classes]


def best(setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The candidate that the judge rates highest, each rated on its own; as in `vote`, chance breaks ties. A rating that
    cannot be read is below all others. Raises UserError where there is no judge."""
    judge = rater(setup)
    asks = [setup.prompts.ask_to_rate(s) for a in attempts for s in a.answers]
    groups = iter(judge.sample(asks, 1) if asks else [])
    found = []
    for a in attempts:
        rated = [next(groups) for _ in a.answers]
        ratings = [rating(group[0].text) if group else -1.0 for group in rated]
        tied = tuple(s for s, r in zip(a.answers, ratings, strict=True) if r == max(ratings))
        used = [s for group in rated for s in group]
        seen = count_cut(setup, a, [s for s, group in zip(a.answers, rated, strict=True) if group])
        seen = count_skipped(seen.answered(a.answers, used, depth=1 if used else 0), sum(not group for group in rated))
        found.append(_chosen(setup, seen, tied))
    return found


def rater(setup: Setup) -> Policy:
    """The judge. Raises UserError where there is none."""
    if setup.rater is None:
        raise UserError('"best" needs a judge: name a model with judge.path=..., or "self" for the model itself')
    return setup.rater


def rating(text: str) -> float:
    """The last number in a box, if it is from 0 to 10; else -1."""
    found = re.findall(r"\\boxed\{\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*\}", text)
    return float(found[-1]) if found and float(found[-1]) <= 10 else -1.0


def _chosen(setup: Setup, attempt: Attempt, tied: Group) -> Attempt:
    if not tied:
        return attempt
    one = rng(setup.prompts.seed, attempt.problem.id, "tie").choice(tied)
    return attempt.answered((one,), (), depth=0, tied=tied)
