"""What an evaluation of strategies keeps: one record per problem, repeat and strategy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluate.answers import VERDICTS, Reply, from_reply, reply
from rethink.jsonl import Record, read_lines
from rethink.strategies import Attempt
from rethink.types import Sample


@dataclass(frozen=True)
class Step:
    """A sample that was drawn on the way. Only first answers are judged here (`verdict` "" otherwise): the final ones are
    in the outcome."""

    phase: str
    index: int
    text: str
    verdict: str
    stop: str
    n_prompt_tokens: int | None
    n_tokens: int | None
    seed: str


@dataclass(frozen=True)
class Outcome:
    """What a strategy made of a problem. `finals` are the answers whose mean verdict counts, several where chance chose
    among them; none where the problem was over-long. Token counts are None where the policy does not state them."""

    suite: str
    problem: str
    repeat: int
    strategy: str
    question: str
    gold: str
    finals: tuple[Reply, ...]
    steps: tuple[Step, ...]
    n_prompt_tokens: int | None
    n_tokens: int | None
    depth: int
    notes: Mapping[str, int]

    @property
    def right(self) -> float | None:
        """The share of the final answers that are right; None where none was judged."""
        judged = [float(f.right) for f in self.finals if f.right is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def candidates(self) -> list[bool | None]:
        """The verdicts of the first answers, in order."""
        return [VERDICTS[s.verdict] for s in self.steps if s.phase == "solve"]


def outcome(strategy: str, repeat: int, attempt: Attempt, judged: Mapping[int, Sample]) -> Outcome:
    """The record of an attempt; `judged` has the judged copy of a sample by its `id`."""
    problem = attempt.problem
    return Outcome(
        suite=problem.suite,
        problem=problem.id,
        repeat=repeat,
        strategy=strategy,
        question=problem.question,
        gold=problem.gold,
        finals=tuple(reply(judged[id(s)]) for s in attempt.expected),
        steps=tuple(_step(s, judged) for s in attempt.used),
        n_prompt_tokens=attempt.n_prompt_tokens,
        n_tokens=attempt.n_tokens,
        depth=attempt.depth,
        notes=dict(attempt.notes),
    )


def _step(sample: Sample, judged: Mapping[int, Sample]) -> Step:
    seen = judged.get(id(sample))
    return Step(
        phase=sample.prompt.phase,
        index=sample.index,
        text=sample.text,
        verdict="" if seen is None or sample.prompt.phase != "solve" else str(seen.verdict),
        stop=sample.stop,
        n_prompt_tokens=sample.n_prompt_tokens,
        n_tokens=sample.n_tokens,
        seed=f"{sample.prompt.seed:016x}",
    )


def to_record(found: Outcome) -> Record:
    """As it is written to the file."""
    return asdict(found)


def read_outcomes(file: Path) -> list[tuple[str, Outcome]]:
    """Each whole line of a file with its outcome. Raises UserError for another kind of file."""
    try:
        return [(line, _from_record(record)) for line, record in read_lines(file)]
    except (KeyError, TypeError, ValueError) as err:
        raise UserError(f"{file} is no file of outcomes that an evaluation of strategies wrote") from err


def _from_record(record: Mapping[str, Any]) -> Outcome:
    finals = tuple(map(from_reply, record["finals"]))
    return Outcome(**{**record, "finals": finals, "steps": tuple(Step(**step) for step in record["steps"])})


def rights(outcomes: Iterable[Outcome]) -> list[tuple[str, float]]:
    """(problem, share right) of each outcome that has a verdict."""
    return [(o.problem, o.right) for o in outcomes if o.right is not None]


def by_strategy(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each strategy, in order of appearance."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.strategy, []).append(one)
    return found
