"""Self-Refine (arXiv 2303.17651): the model's own feedback, then an answer that uses it."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.strategies.attempt import Attempt, Setup, all_answers, sample_followups
from rethink.strategies.retry import answer_again, comments_on
from rethink.types import Prompt, Sample


def self_refine(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Give each answer feedback and improve it, in one conversation, up to `rounds` times.

    An answer is final as soon as its feedback ends with `prompts.satisfied`."""
    prompts = setup.prompts

    def improve_prompt(critique: Sample) -> Prompt | None:
        is_final = prompts.is_satisfied(critique.text)
        return None if is_final else prompts.follow_up(critique, "improve", prompts.improve)

    found = list(attempts)
    unfinished = all_answers(found)
    for _ in range(rounds):
        asks = [prompts.follow_up(s, "critique", prompts.critique) for s in unfinished]
        critiques = comments_on(unfinished, sample_followups(setup, asks))
        before = all_answers(found)
        found = answer_again(setup, found, critiques, improve_prompt)
        unfinished = _changed(before, all_answers(found))
    return found


def _changed(before: Sequence[Sample], after: Sequence[Sample]) -> list[Sample]:
    """Return the answers that are new."""
    old = {s.key for s in before}
    return [s for s in after if s.key not in old]
