"""Supervised fine-tuning on demonstrations, for example as a warm start for solving and refining."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import PositiveInt

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Imitate, Update
from rethink.types import Demonstration, Problem, Sample


@dataclass(frozen=True)
class Imitation:
    """Imitate all demonstrations of the problems: one update per problem batch.

    - `n_steps`: the number of optimizer steps per update.
    """

    samples: ClassVar[bool] = False

    n_steps: PositiveInt = 1

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        samples = tuple(s for p in problems for s in demonstrations(actors, p))
        yield Update("imitate", (Imitate(samples, (1.0,) * len(samples)),), self.n_steps)


def require_demonstrations(problems: Sequence[Problem], or_pairs: bool = False) -> None:
    """Raise UserError for a problem without a reply to imitate, or, with `or_pairs`, without a pair of replies either."""
    for problem in problems:
        if problem.demonstrate is None and not (or_pairs and problem.preference is not None):
            raise UserError(
                f"problem {problem.id} has no demonstration to imitate; name the column that holds replies (problems.reply)"
            )


def demonstrations(actors: Actors, problem: Problem) -> Iterator[Sample]:
    """Yield the problem's demonstrations as samples. Raise UserError if it has none."""
    require_demonstrations([problem])
    assert problem.demonstrate is not None
    ask = actors.prompts.ask([problem])[0]
    for i, shown in enumerate(problem.demonstrate(ask.seed)):
        yield transcribed(actors, problem, shown, i)


def solutions(problem: Problem, seed: int) -> list[Demonstration]:
    """Return the problem's demonstrations of first answers."""
    shown = problem.demonstrate(seed) if problem.demonstrate is not None else ()
    return [found for found in shown if found.phase == "solve"]


def known_answer(problem: Problem, seed: int = 0) -> str:
    """Return an answer that is known to be right: the problem's first reply to imitate, or else its gold answer."""
    found = solutions(problem, seed)
    return found[0].reply if found else problem.gold


def transcribed(actors: Actors, problem: Problem, shown: Demonstration, index: int) -> Sample:
    """Return a demonstration as a sample with this index."""
    ask = actors.prompts.ask([problem])[0]
    messages = actors.prompts.messages(problem, shown.phase, shown.shown, shown.turns)
    return replace(
        actors.policy.transcribe(replace(ask, phase=shown.phase, messages=messages), shown.reply), index=index
    )


def mask_unlikely(
    samples: Sequence[Sample], log_probs: Sequence[Sequence[float]], min_log_prob: float
) -> tuple[Sample, ...]:
    """Return the samples without a loss on tokens whose log-probs, given for each sample, are below a limit."""
    found = []
    for sample, log_probs_T in zip(samples, log_probs, strict=True):
        mask = tuple(log_prob >= min_log_prob for log_prob in log_probs_T)
        found.append(replace(sample, mask=mask))
    return tuple(found)
