"""Does a model look at the images? Its accuracy on shapes with the right image, and with that of another question.

    python benchmarks/swapped_images.py tiny-shapes

Asks the validation problems of the tasks that tiny-shapes knows, with "think" and without it, twice at temperature 1.
Prints a table of accuracies in percent with 95% intervals, the share of skipped thoughts, and the mean tokens of an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from rethink.build import load_policy
from rethink.commands.demo_vision import describe
from rethink.evaluation.answers import Answer
from rethink.evaluation.evaluate import evaluate
from rethink.policies.base import Policy
from rethink.printable import align_columns
from rethink.problems.shapes_worked import TASKS
from rethink.problems.source import load_problems
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings, ProblemSource
from rethink.types import Problem, Sampling


def main(model: str, n_problems: int = 400) -> None:
    torch.set_num_threads(1)
    policy = load_policy(model)
    tasks = "+".join(TASKS)
    problems = load_problems(ProblemSource(f"shapes:{tasks}", split="validation", limit=n_problems))
    others = [*problems[len(TASKS) :], *problems[: len(TASKS)]]  # tasks take turns: the next one of the same task
    swapped = [replace(a, images=b.images) for a, b in zip(problems, others, strict=True)]
    rows = [["", "all", *TASKS, "skipped", "tokens"]]
    rows.append(["right image", *row(answer(policy, problems, "{question} think"))])
    rows.append(["image of another question", *row(answer(policy, swapped, "{question} think"))])
    rows.append(["right image, without think", *row(answer(policy, problems, "{question}"))])
    print(align_columns(rows))


def answer(policy: Policy, problems: Sequence[Problem], solve: str) -> list[Answer]:
    settings = AnswerSettings(strategy="solve", n=2, sampling=Sampling(1.0, 80))
    return evaluate(policy, problems, settings, prompts=Prompts(solve=solve, refine="again"))


def row(answers: Sequence[Answer]) -> list[str]:
    shown = describe(answers)
    found = [shown.accuracy.percent()]
    for task in TASKS:
        found.append(describe([a for a in answers if a.problem.split(":")[1] == task]).accuracy.percent())
    return [*found, shown.skipped.value_percent(), f"{shown.tokens.value:.1f}"]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
