"""The vision model of the package: its size, and that it looks at images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rethink.build import load_policy
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.summary import summarize
from rethink.models.bundled import MODELS
from rethink.policies.base import Policy
from rethink.problems.source import load_problems
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings, ProblemSource
from rethink.types import Problem, Sampling


def test_it_is_small() -> None:
    """The package must stay light: at most 1.5 MB for all its files."""
    files = list(MODELS["tiny-shapes"].iterdir())
    assert {"model.safetensors", "README.md", "processor_config.json"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 1_500_000


def accuracy(policy: Policy, problems: Sequence[Problem]) -> float:
    prompts = Prompts(solve="{question} think", refine="again")
    settings = AnswerSettings(strategy="solve", sampling=Sampling(temperature=0.0, max_tokens=80))
    return summarize(evaluate(policy, problems, settings, prompts=prompts)).accuracy.value


@pytest.mark.slow
def test_it_answers_from_the_image() -> None:
    """Guards against vectors that do not reach the answer: with the image of another question of the same kind, fewer
    answers are right."""
    policy = load_policy("tiny-shapes")
    problems = load_problems(ProblemSource("shapes:count+color+position+larger", split="validation", limit=200))
    others = [*problems[4:], *problems[:4]]
    swapped = [replace(a, images=b.images) for a, b in zip(problems, others, strict=True)]
    assert accuracy(policy, problems) > accuracy(policy, swapped) + 0.2
