"""Supervised fine-tuning on demonstrations: a warm start for solving and for refining."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Imitate, Update
from rethink.types import Problem, Sample


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
        messages = actors.prompts.messages(problem, shown.phase, shown.shown)
        yield replace(
            actors.policy.transcribe(replace(ask, phase=shown.phase, messages=messages), shown.reply), index=i
        )
