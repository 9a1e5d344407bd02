"""What an evaluation keeps: one record per problem, repeat and strategy; a file of them tells everything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config

from rethink.errors import UserError
from rethink.jsonl import read_lines
from rethink.strategies import Attempt
from rethink.types import Sample

VERDICTS = {"right": True, "wrong": False, "not graded": None}
FILE = "answers.jsonl"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class AnswerStep:
    """A reply that was sampled, or given, on the way.

    Only first and final answers are graded: of the others `verdict` is "" and `prompt` empty. `extracted` is None where no
    answer was found. `stop` is "stop", "length" (cut at the cap), or None where that is unknown, as token counts may be;
    `seed` is "" for a draft that was given. `draft` is the place of the first answer that the reply goes back to.
    """

    phase: str
    index: int
    text: str
    prompt: tuple[tuple[str, str], ...]
    verdict: str
    extracted: str | None
    reason: str
    lenient: bool
    stop: str | None
    n_prompt_tokens: int | None
    n_tokens: int | None
    seed: str
    draft: int | None

    @property
    def right(self) -> bool | None:
        return VERDICTS.get(self.verdict)

    @property
    def is_first(self) -> bool:
        return self.phase == "solve"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Answer:
    """What a strategy made of a problem.

    `steps` are all replies in the order in which they were drawn, and `finals` the places of those that count at the end:
    mostly one, several refinements of a draft where so many were asked for, and, where chance chose among them (`tied`),
    those whose mean is expected of it. Both are empty where the problem was over-long. Token counts are None where the
    policy does not state them; `depth` counts calls that waited for one another.
    """

    suite: str
    problem: str
    repeat: int
    strategy: str
    question: str
    gold: str
    steps: tuple[AnswerStep, ...]
    finals: tuple[int, ...]
    tied: bool
    n_prompt_tokens: int | None
    n_tokens: int | None
    depth: int
    notes: Mapping[str, int]

    @property
    def firsts(self) -> list[AnswerStep]:
        return [step for step in self.steps if step.is_first]

    @property
    def final_steps(self) -> list[AnswerStep]:
        return [self.steps[place] for place in self.finals]

    @property
    def right(self) -> float | None:
        """The share of the final answers that are right; None where none was graded."""
        graded = [float(step.right) for step in self.final_steps if step.right is not None]
        return sum(graded) / len(graded) if graded else None


ANSWER = TypeAdapter(Answer)


def answer_from_attempt(
    strategy: str, attempt: Attempt, graded: Mapping[tuple[str, int], Sample], given: bool = False
) -> Answer:
    """Return the record of an attempt.

    `graded` maps the keys of first and final answers to their graded copies. With `given`, first answers were not sampled,
    and how they ended is unknown.
    """
    places: dict[tuple[str, int], int] = {}
    steps: list[AnswerStep] = []
    for sample in attempt.samples:
        steps.append(_step(sample, graded.get(sample.key), places, given and sample.prompt.phase == "solve"))
        places.setdefault(sample.key, len(steps) - 1)
    problem = attempt.problem
    return Answer(
        suite=problem.suite,
        problem=problem.id,
        repeat=attempt.repeat,
        strategy=strategy,
        question=problem.question,
        gold=problem.gold,
        steps=tuple(steps),
        finals=tuple(places[sample.key] for sample in attempt.finals),
        tied=len(attempt.tied) > 1,
        n_prompt_tokens=attempt.n_prompt_tokens,
        n_tokens=attempt.n_tokens,
        depth=attempt.depth,
        notes=dict(attempt.notes),
    )


def _step(sample: Sample, graded: Sample | None, places: Mapping[tuple[str, int], int], given: bool) -> AnswerStep:
    verdict = graded.verdict if graded is not None else None
    first = _first_answer(sample)
    return AnswerStep(
        phase=sample.prompt.phase,
        index=sample.index,
        text=sample.text,
        prompt=tuple((m.role, m.content) for m in sample.prompt.messages) if verdict else (),
        verdict=str(verdict) if verdict else "",
        extracted=verdict.extracted if verdict else "",
        reason=verdict.reason if verdict else "",
        lenient=verdict.lenient if verdict else False,
        stop=None if given else sample.stop,
        n_prompt_tokens=sample.n_prompt_tokens,
        n_tokens=sample.n_tokens,
        seed="" if given else f"{sample.prompt.seed:016x}",
        draft=None if first is None else places.get(first.key),
    )


def _first_answer(sample: Sample) -> Sample | None:
    """The first answer that a sample looks back on, maybe over others; None for one that does not, or on several."""
    draft = sample.prompt.draft
    while draft is not None and draft.prompt.phase != "solve":
        draft = draft.prompt.draft
    return draft


def answer_from_record(record: Mapping[str, Any]) -> Answer:
    """An answer as it is read from the file, where it stands as `asdict` gives it. Raises ValueError for another record."""
    answer = ANSWER.validate_python(record)
    for step in answer.steps:
        if step.verdict not in (*VERDICTS, ""):
            raise ValueError(f"no verdict: {step.verdict}")
    if not all(0 <= place < len(answer.steps) for place in answer.finals):
        raise ValueError(f"no such steps: {answer.finals}")
    return answer


def read_answers(file: Path) -> list[Answer]:
    """All answers of a file; a last line that was cut short is left out. Raises UserError for another kind of file, and for
    a damaged line before the last one."""
    try:
        answers = [answer_from_record(record) for _, record in read_lines(file)]
    except ValueError as err:
        raise UserError(
            f"{file} is no file of answers that an evaluation wrote, or one of an earlier version of rethink"
        ) from err
    whole_lines = file.read_bytes().split(b"\n")[:-1] if answers else []
    n_lines = sum(1 for line in whole_lines if line.strip())
    if n_lines > len(answers):
        raise UserError(f"{file}: line {len(answers) + 1} of {n_lines} is damaged; what follows it would be left out")
    return answers


def is_answers_file(file: Path) -> bool:
    """Whether a file begins like one that an evaluation wrote."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    try:
        return {"problem", "strategy", "steps", "finals"} <= json.loads(first).keys()
    except (ValueError, AttributeError):
        return False


def graded_outcomes(answers: Iterable[Answer]) -> list[tuple[str, float]]:
    """(problem, share right) of each answer that has a verdict."""
    return [(a.problem, a.right) for a in answers if a.right is not None]


def by_suite(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The answers on each benchmark, in order of appearance."""
    found: dict[str, list[Answer]] = {}
    for one in answers:
        found.setdefault(one.suite, []).append(one)
    return found


def by_strategy(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The answers of each strategy, in order of appearance."""
    found: dict[str, list[Answer]] = {}
    for one in answers:
        found.setdefault(one.strategy, []).append(one)
    return found


def first_answers(answers: Sequence[Answer]) -> list[tuple[str, AnswerStep]]:
    """(problem, reply) of each first answer, once however many strategies began with it; by problem, then by index. Answers
    of runs with other seeds are other answers."""
    by_problem: dict[tuple[str, str], dict[tuple[int, str], AnswerStep]] = {}
    for one in answers:
        firsts = by_problem.setdefault((one.suite, one.problem), {})
        for step in one.firsts:
            firsts.setdefault((step.index, step.seed), step)
    found: list[tuple[str, AnswerStep]] = []
    for (_, problem), firsts in by_problem.items():
        found += [(problem, firsts[key]) for key in sorted(firsts)]
    return found
