"""What an evaluation keeps: one record per draft, with its refinements; a file of them tells everything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.jsonl import read_lines
from rethink.types import Problem, Sample

Record = dict[str, Any]
VERDICTS = {"right": True, "wrong": False, "not judged": None}


@dataclass(frozen=True)
class Reply:
    """A judged reply with what it was a reply to. `extracted` is None where no answer was found in it; `stop` is "stop",
    "length" (cut at the cap), or None where that is unknown, as token counts may be."""

    prompt: tuple[tuple[str, str], ...]
    text: str
    verdict: str
    extracted: str | None
    reason: str
    lenient: bool
    stop: str | None
    n_prompt_tokens: int | None
    n_tokens: int | None
    seed: str

    @property
    def right(self) -> bool | None:
        return VERDICTS[self.verdict]


@dataclass(frozen=True)
class Answer:
    """A draft with its refinements. `draft` is None where the solve prompt was over-long; `refinements` is empty where
    the refine prompt was, and None where none were asked for."""

    suite: str
    problem: str
    index: int
    question: str
    gold: str
    draft: Reply | None
    refinements: tuple[Reply, ...] | None


def reply(sample: Sample, given: bool = False) -> Reply:
    """A judged sample; of one that was `given` and not sampled, seed and stop reason are unknown."""
    verdict = sample.verdict
    assert verdict is not None
    return Reply(
        prompt=tuple((m.role, m.content) for m in sample.prompt.messages),
        text=sample.text,
        verdict=str(verdict),
        extracted=verdict.extracted,
        reason=verdict.reason,
        lenient=verdict.lenient,
        stop=None if given else sample.stop,
        n_prompt_tokens=sample.n_prompt_tokens,
        n_tokens=sample.n_tokens,
        seed="" if given else f"{sample.prompt.seed:016x}",
    )


def answer(problem: Problem, index: int, draft: Reply | None, refinements: Iterable[Sample] | None) -> Answer:
    """The record of one draft."""
    refined = None if refinements is None else tuple(reply(s) for s in refinements)
    return Answer(problem.suite, problem.id, index, problem.question, problem.gold, draft, refined)


def to_record(found: Answer) -> Record:
    """As it is written to the file."""
    return asdict(found)


def from_record(record: Record) -> Answer:
    """As it is read from the file. Raises KeyError, TypeError or ValueError for a record of another kind."""
    draft, refined = record["draft"], record["refinements"]
    return Answer(
        **{
            **record,
            "draft": None if draft is None else from_reply(draft),
            "refinements": None if refined is None else tuple(map(from_reply, refined)),
        }
    )


def read_answers(file: Path) -> list[Answer]:
    """All answers of a file; a last line that was cut short is left out. Raises UserError for another kind of file."""
    return [found for _, found in answer_lines(file)]


def answer_lines(file: Path) -> Iterator[tuple[str, Answer]]:
    """Each whole line with its answer. Raises UserError for another kind of file."""
    for line, record in read_lines(file):
        try:
            found = from_record(record)
        except (KeyError, TypeError, ValueError) as err:
            raise UserError(f"{file} is no file of answers that an evaluation wrote") from err
        yield line, found


def is_answers(file: Path) -> bool:
    """Whether a file begins like one that an evaluation wrote."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    try:
        return {"problem", "draft", "refinements"} <= json.loads(first).keys()
    except (ValueError, AttributeError):
        return False


def from_reply(record: Record) -> Reply:
    """A reply as it is read from a file. Raises TypeError or ValueError for a record of another kind."""
    found = Reply(**{**record, "prompt": tuple((role, content) for role, content in record["prompt"])})
    if found.verdict not in VERDICTS:
        raise ValueError(f"no verdict: {found.verdict}")
    return found
