"""Reflexion (arXiv 2303.11366): a new try sees earlier reflections, but no earlier try."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.strategies.attempt import Attempt, Setup
from rethink.strategies.retry import reflect_and_retry
from rethink.types import Prompt, Sample

MEMORY = 3
"""How many reflections a new try sees, the latest ones (section 3 of the paper)."""


def reflexion(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Reflect on each wrong answer and solve the problem again with the latest reflections in view, up to `rounds` times.

    Other answers stay. Like `reflect`, this sees verdicts."""
    memory: dict[tuple[str, int], list[str]] = {}

    def retry_prompt(reflection: Sample) -> Prompt:
        learned = memory.setdefault((reflection.problem.id, reflection.index), [])
        learned.append(setup.prompts.shorten(reflection.text))
        return setup.prompts.ask_with_reflections(reflection, learned[-MEMORY:])

    return reflect_and_retry(setup, attempts, rounds, retry_prompt)
