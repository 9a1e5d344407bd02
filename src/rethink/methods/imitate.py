"""Supervised fine-tuning on demonstrations: a warm start for solving and for refining."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.types import Demonstration, Imitate, Problem, Prompt, Sample, Update


@dataclass(frozen=True)
class Imitation:
    """One update per problem batch, on every demonstration that the batch's problems give."""

    n_steps: int = 1

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        samples = tuple(s for p in problems for s in transcripts(actors, p))
        yield Update("imitate", (Imitate(samples, (1.0,) * len(samples)),), self.n_steps)


def transcripts(actors: Actors, problem: Problem) -> Iterator[Sample]:
    """The problem's demonstrations as samples."""
    if problem.demonstrate is None:
        raise UserError(f"problem {problem.id} has no demonstration to imitate; name the column that holds replies")
    ask = actors.prompts.ask([problem])[0]
    for i, shown in enumerate(problem.demonstrate(ask.seed)):
        yield replace(actors.policy.transcribe(_prompt(actors, ask, shown), shown.reply), index=i)


def _prompt(actors: Actors, ask: Prompt, shown: Demonstration) -> Prompt:
    if shown.candidates:
        messages = actors.prompts.merge_messages(ask.problem, shown.candidates)
        return replace(ask, phase="merge", messages=messages)
    if shown.draft is None:
        return ask
    messages = actors.prompts.refine_messages(ask.problem, shown.draft)
    return replace(ask, phase="refine", messages=messages)
