"""Where problems come from: countdown's generator, a JSONL or parquet file, or a data set on the hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.problems import boxed, countdown
from rethink.types import Demonstration, Problem, Verdict


@dataclass(frozen=True)
class ProblemSource:
    """`source` is "countdown", a .jsonl or .parquet file, or "hub:NAME" (with `subsets`, where the data set has them).

    `question`, `answer`, and where there are any `id`, `reply` and `draft` (to imitate), name columns; dots reach into
    nested ones (`reward_model.ground_truth`, `prompt.0.content`). `verifier` is "boxed", "countdown" or module:function.
    `limit` keeps the first rows; 0 keeps all. `replies` belongs to countdown's demonstrations.
    """

    source: str = "countdown"
    split: str = "train"
    subsets: tuple[str, ...] = ()
    question: str = "question"
    answer: str = "answer"
    id: str = ""
    reply: str = ""
    draft: str = ""
    verifier: str = "boxed"
    limit: int = 0
    numbers: int = 3
    largest: int = 12
    replies: countdown.Replies = countdown.Replies()


Row = tuple[str, dict[str, Any]]
"""Where a row stands ("file.jsonl, row 3"), and its columns."""

VERIFIERS: dict[str, Callable[[str, str], Verdict]] = {"boxed": boxed.verify, "countdown": countdown.verify}


def load_problems(source: ProblemSource) -> list[Problem]:
    """All problems of the source. Raises UserError for a missing file or column, and for a row without an answer."""
    if source.source == "countdown":
        try:
            found = countdown.problems(source.split, source.numbers, source.largest, source.replies)
        except ValueError as err:
            raise UserError(str(err)) from err
    else:
        verify = find_verifier(source.verifier)
        found = [_problem(where, row, source, verify) for where, row in _rows(source)]
    if source.limit < 0:
        raise UserError(f"{source.source}: limit must be 0 (all rows) or more, not {source.limit}")
    if source.limit:
        found = found[: source.limit]
    if not found:
        raise UserError(f"{source.source} has no problems")
    _refuse_repeated(found, source)
    return found


def find_verifier(name: str) -> Callable[[str, str], Verdict]:
    """The verifier by its name here, or as `module:function` (reply, gold) -> Verdict."""
    if name in VERIFIERS:
        return VERIFIERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"unknown verifier {name!r}: use one of {', '.join(VERIFIERS)}, or module:function")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as err:  # ValueError: an empty module name
        raise UserError(f"verifier {name!r} cannot be imported: {err}") from err


def refuse_overlap(training: Iterable[Problem], held_out: Iterable[Problem]) -> None:
    """Raise UserError if a held-out problem is also trained on, be it with its numbers in another order."""
    trained = {_identity(p) for p in training}
    shared = [p for p in held_out if _identity(p) in trained]
    if shared:
        raise UserError(
            f"{len(shared)} held-out problems are also training problems, {shared[0].id} for one; "
            "choose another split or file for evaluation.problems"
        )


def _identity(problem: Problem) -> object:
    if problem.verify is countdown.verify:
        return countdown.instance(problem)
    return " ".join(problem.question.split())


def _refuse_repeated(problems: list[Problem], source: ProblemSource) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise UserError(f"{source.source}: the id {problem.id!r} occurs twice; ids must be unique")
        seen.add(problem.id)


def _rows(source: ProblemSource) -> Iterator[Row]:
    if source.source.startswith("hub:"):
        return _hub_rows(source)
    file = Path(source.source)
    if not file.is_file():
        raise UserError(f'no file {file} ("countdown" and "hub:NAME" are the other kinds of source)')
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix in (".jsonl", ".ndjson"):
        return _jsonl_rows(file)
    raise UserError(f"{file}: problems are read from .jsonl and .parquet files")


def _jsonl_rows(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        for n, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError as err:  # bad JSON, or bytes that are not UTF-8
                raise UserError(f"{file}, row {n}: not valid JSON ({err})") from err
            if not isinstance(row, dict):
                raise UserError(f"{file}, row {n}: not a JSON object")
            yield f"{file}, row {n}", row


def _parquet_rows(file: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(file).to_pylist()
    except ArrowException as err:
        raise UserError(f"{file} is not a readable parquet file: {err}") from err
    for n, row in enumerate(rows, start=1):
        yield f"{file}, row {n}", row


def _hub_rows(source: ProblemSource) -> Iterator[Row]:
    import datasets

    name = source.source.removeprefix("hub:")
    for subset in source.subsets or (None,):
        try:
            rows = datasets.load_dataset(name, subset, split=source.split)
        except Exception as err:  # the hub's client raises many kinds; all mean that the data cannot be had
            raise UserError(f"cannot load {source.source} (split {source.split}): {err}") from err
        for n, row in enumerate(rows, start=1):
            yield f"{name}{f'/{subset}' if subset else ''}, row {n}", dict(row)


def _problem(where: str, row: dict[str, Any], source: ProblemSource, verify: Callable[[str, str], Verdict]) -> Problem:
    gold = column(where, row, source.answer)
    reply = column(where, row, source.reply) if source.reply else None
    shown: tuple[Demonstration, ...] = ()
    if reply is not None:
        draft = column(where, row, source.draft) if source.draft else None
        shown = (Demonstration(reply, draft),)
    return Problem(
        id=column(where, row, source.id) if source.id else where,
        question=column(where, row, source.question),
        gold=boxed.gold(gold) if verify is boxed.verify else gold,
        verify=verify,
        demonstrate=(lambda _seed: shown) if shown else None,
    )


def column(where: str, row: dict[str, Any], name: str) -> str:
    """A column's value as text. Raises UserError, with the place, where it is missing or empty."""
    value: Any = row
    for key in name.split("."):
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            raise UserError(f"{where}: no column {name!r}; there are {', '.join(row)}")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if value is None or not text.strip():
        raise UserError(f"{where}: the column {name!r} is empty")
    return text
