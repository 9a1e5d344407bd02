"""Pair the problems of different tools, whose names of tasks and documents differ, by their questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rethink.evaluation.answers import Answer
from rethink.evaluation.compare import Evaluation

_LABELS = re.compile(r"^(?:question|problem|q)\s*:\s*|\s*\b(?:answer|solution|a)\s*:$", re.IGNORECASE)


def align(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations with equal names for equal problems. If they are of one tool, its own names are equal already.

    Otherwise, a problem gets suite, id, question and gold answer of the first evaluation's problem with the same question;
    spaces and a label around it (`Question: ... Answer:`) do not matter. A question that several problems share, or that
    the first evaluation lacks, keeps its own names, and so counts as one that the other does not have.
    """
    if len({evaluation.tool for evaluation in evaluations}) == 1:
        return list(evaluations)
    first = evaluations[0]
    known = _unique(first)
    found = [first]
    for n, evaluation in enumerate(evaluations[1:], 1):
        if evaluation.tool == first.tool:
            found.append(evaluation)
            continue
        unique = _unique(evaluation)
        answers: list[Answer] = []
        for answer in evaluation.answers:
            question = bare(answer.question)
            if question in known and question in unique:
                same = known[question]
                names = {"suite": same.suite, "problem": same.problem, "question": same.question, "gold": same.gold}
            else:
                names = {"problem": f"{evaluation.tool} {n}: {answer.problem}"}
            answers.append(replace(answer, **names))  # type: ignore[arg-type]
        found.append(replace(evaluation, answers=answers))
    return found


def bare(question: str) -> str:
    """Return a question with single spaces, and without a label around it.

    >>> bare("Question: What is 1 + 1?\\nAnswer:")
    'What is 1 + 1?'
    """
    return _LABELS.sub("", " ".join(question.split()))


def _unique(evaluation: Evaluation) -> dict[str, Answer]:
    """Return an answer to each question that belongs to one problem only."""
    problems: dict[str, set[tuple[str, str]]] = {}
    found: dict[str, Answer] = {}
    for answer in evaluation.answers:
        question = bare(answer.question)
        problems.setdefault(question, set()).add((answer.suite, answer.problem))
        found.setdefault(question, answer)
    return {question: answer for question, answer in found.items() if len(problems[question]) == 1}
