"""Prompts, problems, policies and attempts for tests of strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.strategies import Attempt, Setup, solve
from rethink.types import Problem, Prompt, Verdict
from support.evaluations import equal, last_word

PROMPTS = Prompts(
    refine="again",
    merge="{question} {candidates} merge",
    candidate="{n}<{candidate}>",
    between=" ",
    rate="{question} rate <{candidate}>",
    seed=13,
)


def verify(reply: str, gold: str) -> Verdict:
    word = last_word(reply)
    return Verdict(word is not None and equal(word, gold))


def problem(name: str = "p", gold: str = "a") -> Problem:
    """A problem whose replies answer with their last word, "?" for no answer."""
    return Problem(name, f"question {name}", gold, verify, extract_answer=last_word, equal_answers=equal)


class SealedProblem(Problem):
    """A problem that raises when its gold answer or its verifier is read."""

    def __getattribute__(self, name: str) -> Any:
        assert name not in ("gold", "grade", "verify"), "gold answers and verdicts are out of bounds"
        return super().__getattribute__(name)


def saying(*replies: str) -> FakePolicy:
    """A policy with these first answers; other replies are their phase, index and "a"."""
    return FakePolicy(lambda p, index, v: replies[index] if p.phase == "solve" else f"{p.phase} {index} a")


def candidates(*replies: str, about: Problem | None = None, prompts: Prompts = PROMPTS) -> tuple[Setup, list[Attempt]]:
    """An attempt with these first answers."""
    setup = Setup(saying(*replies), prompts)
    return setup, solve(setup, [about or problem()], len(replies))


def score(attempt: Attempt) -> float | None:
    """The mean verdict of the final answers, None without any."""
    (group,) = grade([attempt.finals])
    return sum(bool(s.right) for s in group) / len(group) if group else None


RETRY_PROMPTS = Prompts(
    reflect="what went wrong",
    retry="once more",
    critique="feedback",
    improve="use it",
    satisfied="Fine",
    remember="{task} learned {reflections}",
    seed=13,
)
"""Prompts of reflect, reflexion and self-refine."""


def verdicts(attempts: Sequence[Attempt]) -> list[list[bool | None]]:
    """Whether each answer of each attempt is right."""
    return [[s.right for s in group] for group in grade([a.answers for a in attempts])]


def turns(prompt: Prompt) -> list[str]:
    """The contents of a prompt's messages."""
    return [m.content for m in prompt.messages]
