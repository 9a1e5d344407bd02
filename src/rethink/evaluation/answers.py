"""The records of an evaluation: one line of `answers.jsonl` per problem, repeat and strategy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config

from rethink.errors import UserError
from rethink.evaluation.unchanged import refuse_changed
from rethink.jsonl import read_lines
from rethink.strategies import Attempt
from rethink.types import Sample

VERDICTS = {"right": True, "wrong": False, "not graded": None}


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class AnswerStep:
    """A reply that a strategy sampled, or was given, on the way to its answer.

    Only first, fresh and final answers are graded; for other replies `verdict` is "" and `prompt` is empty. `extracted` is
    None if no answer was found. `stop` is "stop", "length" (cut at the token limit), "failed" (by a server) or None if
    unknown; token counts may be None too. `log_prob` is that of the whole reply in nats, rounded to 4 decimals; None if it
    is unknown, or if the reply was not drawn from the policy's full distribution (greedy decoding, top-p, top-k). `seed` is
    "" for a given draft. `draft` is the index of the first answer that this reply revises or replaces.
    """

    phase: str
    index: int
    text: str
    prompt: tuple[tuple[str, ...], ...]
    verdict: str
    extracted: str | None
    reason: str
    lenient: bool
    stop: str | None
    n_prompt_tokens: int | None
    n_tokens: int | None
    log_prob: float | None
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
    """The result of one strategy on one problem.

    `steps` are all replies, in the order in which they were sampled. `finals` are the indices of the final answers: usually
    one; several if each draft gets several refinements, or for a random choice among tied answers (`tied`), whose expected
    value is their mean. Both are empty if the prompt was over-long. Token counts are None if the policy reports none.
    `depth` is the number of calls in sequence. `images` are the names of the question's images, in the folder `images`.
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
    images: tuple[str, ...] = ()

    @property
    def firsts(self) -> list[AnswerStep]:
        return [step for step in self.steps if step.is_first]

    @property
    def final_steps(self) -> list[AnswerStep]:
        return [self.steps[place] for place in self.finals]

    @property
    def right(self) -> float | None:
        """The share of the graded final answers that are right; None if none was graded."""
        return self.share_right()

    def share_right(self, ungraded: bool | None = None) -> float | None:
        """Return the share of the final answers that are right. `ungraded` is the verdict of those that were not graded;
        None leaves them out.
        """
        verdicts = [ungraded if step.right is None else step.right for step in self.final_steps]
        known = [float(right) for right in verdicts if right is not None]
        return sum(known) / len(known) if known else None


ANSWER = TypeAdapter(Answer)


ReplyKey = tuple[str, int, str]
"""The key of a sample and its text. Prompts of several strategies, such as `merge:2` and `merge:3`, may have equal seeds,
and so equal keys, although they show other candidates and have other replies.
"""


def reply_key(sample: Sample) -> ReplyKey:
    return (*sample.key, sample.text)


def answer_from_attempt(
    strategy: str, attempt: Attempt, graded: Mapping[ReplyKey, Sample], given: bool = False
) -> Answer:
    """Return the record of an attempt.

    `graded` holds the graded copies of answers that are graded. With `given`, first answers were not sampled, and how they
    ended is unknown.
    """
    places: dict[tuple[str, int], int] = {}
    steps: list[AnswerStep] = []
    for sample in attempt.samples:
        is_given = given and sample.prompt.phase == "solve"
        steps.append(_record_step(sample, graded.get(reply_key(sample)), places, is_given))
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
        images=tuple(problem.image_names),
    )


def _record_step(
    sample: Sample, graded: Sample | None, places: Mapping[tuple[str, int], int], given: bool
) -> AnswerStep:
    verdict = graded.verdict if graded is not None else None
    first = _root_draft(sample)
    return AnswerStep(
        phase=sample.prompt.phase,
        index=sample.index,
        text=sample.text,
        prompt=tuple(message.as_record for message in sample.prompt.messages) if verdict else (),
        verdict=str(verdict) if verdict else "",
        extracted=verdict.extracted if verdict else "",
        reason=verdict.reason if verdict else "",
        lenient=verdict.lenient if verdict else False,
        stop=None if given else sample.stop,
        n_prompt_tokens=sample.n_prompt_tokens,
        n_tokens=sample.n_tokens,
        log_prob=None if given else _log_prob(sample),
        seed="" if given else f"{sample.prompt.seed:016x}",
        draft=None if first is None else places.get(first.key),
    )


def _log_prob(sample: Sample) -> float | None:
    """Return the log-prob of a whole reply; None if it is unknown, or not of the policy's full distribution."""
    if not sample.log_probs or not sample.sampling.trainable:
        return None
    total = math.fsum(sample.log_probs)
    return round(total, 4) if math.isfinite(total) else None


def _root_draft(sample: Sample) -> Sample | None:
    """Return the first answer that a sample revises or replaces, directly or through others; None for none or several."""
    draft = sample.prompt.draft
    while draft is not None and draft.prompt.phase != "solve":
        draft = draft.prompt.draft
    return draft


def answer_from_record(record: Mapping[str, Any]) -> Answer:
    """Return an answer from a line of the file, as written by `asdict`. Raise ValueError for any other record."""
    fields = {name: value for name, value in record.items() if name != "schema"}
    answer = ANSWER.validate_python(fields)
    for step in answer.steps:
        if step.verdict not in (*VERDICTS, ""):
            raise ValueError(f"unknown verdict: {step.verdict}")
    if not all(0 <= place < len(answer.steps) for place in answer.finals):
        raise ValueError(f"finals without a step: {answer.finals}")
    return answer


def read_answers(file: Path) -> list[Answer]:
    """Return all answers in a file, except a last line that was cut short. Raise UserError for another kind of file, for a
    damaged line before the last one, for an answer that is there twice, and if a finished evaluation's file has changed.
    """
    try:
        answers = [answer_from_record(record) for _, record in read_lines(file)]
    except UserError:  # of a newer version
        raise
    except ValueError as err:
        raise UserError(f"{file} has no answers of an evaluation that this version of rethink can read") from err
    whole_lines = file.read_bytes().split(b"\n")[:-1] if answers else []
    n_lines = sum(1 for line in whole_lines if line.strip())
    if n_lines > len(answers):
        raise UserError(
            f"{file}: line {len(answers) + 1} of {n_lines} is damaged, and the lines after it would be lost"
        )
    _refuse_repeats(answers, file)
    if answers:
        refuse_changed(file)
    return answers


def _refuse_repeats(answers: Sequence[Answer], file: Path) -> None:
    lines: dict[tuple[str, str, int, str], int] = {}
    for n, a in enumerate(answers, start=1):
        before = lines.setdefault((a.suite, a.problem, a.repeat, a.strategy), n)
        if before != n:
            raise UserError(
                f"{file}: lines {before} and {n} answer the same problem ({a.problem}); it would count twice"
            )


def is_answers_file(file: Path) -> bool:
    """Return whether the file begins like one that an evaluation wrote."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    try:
        return {"problem", "strategy", "steps", "finals"} <= json.loads(first).keys()
    except (ValueError, AttributeError):
        return False


def count_not_graded(answers: Iterable[Answer]) -> int:
    """Return the number of answers that could not be graded; one that several strategies share counts once."""
    found: set[tuple[str, str, str, int, str, str]] = set()
    for answer in answers:
        for step in answer.steps:
            if step.verdict and step.right is None:
                found.add((answer.suite, answer.problem, step.phase, step.index, step.seed, step.text))
    return len(found)


def unmeasured(answers: Sequence[Answer]) -> list[str]:
    """Return an alarm, with the first reason, if not a single reply was graded; otherwise nothing."""
    reason = ""
    for answer in answers:
        for step in answer.steps:
            if step.right is not None:
                return []
            if step.verdict:
                reason = reason or step.reason or "no reason given"
    why = (
        f"no reply was graded (first reason: {reason})"
        if reason
        else "every prompt was too long (sampler.max_prompt_tokens)"
    )
    return [f"nothing was measured: {why}"] if answers else []


def by_suite(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Return the answers by suite, in order of appearance."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.suite, []).append(answer)
    return found


def by_strategy(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Return the answers by strategy, in order of appearance."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.strategy, []).append(answer)
    return found


def first_answers(answers: Sequence[Answer]) -> list[tuple[str, AnswerStep]]:
    """Return (problem, reply) for each first answer, ordered by problem, then index. An answer that several strategies
    share counts once; answers with other seeds are other answers.
    """
    by_problem: dict[tuple[str, str], dict[tuple[int, str], AnswerStep]] = {}
    for answer in answers:
        firsts = by_problem.setdefault((answer.suite, answer.problem), {})
        for step in answer.firsts:
            firsts.setdefault((step.index, step.seed), step)
    found: list[tuple[str, AnswerStep]] = []
    for (_, problem), firsts in by_problem.items():
        found += [(problem, firsts[key]) for key in sorted(firsts)]
    return found
