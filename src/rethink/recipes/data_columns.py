"""Which columns of a file hold the question, the gold answer and the options: what their names say, if it is clear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rethink.errors import UserError
from rethink.problems.conversation import is_turns
from rethink.problems.files import read_rows
from rethink.problems.rows import Row

N_INSPECTED = 200

QUESTIONS = (
    ("question", "problem", "query"),
    ("prompt", "instruction", "task"),
    ("messages", "conversations", "conversation"),
)
"""Names by rank: a column of an earlier rank is preferred; two of the same rank are not clear."""
ANSWERS = (
    ("final_answer", "gold_answer", "expected_answer", "correct_answer"),
    ("answer", "gold", "ground_truth", "reward_model.ground_truth", "answerkey", "correct"),
    ("solution", "target", "label", "output"),
    ("completion", "response", "messages", "conversations", "conversation"),
)
OPTIONS = ("choices", "options")
LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class DataColumns:
    """The columns of a file; "" is none. `notes` say how each was found."""

    question: str
    answer: str
    options: str = ""
    context: str = ""
    notes: tuple[str, ...] = ()

    @property
    def verifier(self) -> str:
        """The answer format that these columns are for."""
        return "choice" if self.options else "boxed"


def inspect(file: Path, question: str = "", answer: str = "") -> DataColumns:
    """Return the columns of a file or folder, from its first rows; `question` and `answer` are known ones.

    Raise UserError if it cannot be read, has no rows, or does not say clearly which columns these are."""
    rows = list(islice(read_rows(file, splits=("train",)), N_INSPECTED))
    if not rows:
        raise UserError(f"{file} has no rows")
    names = _names(rows)
    notes: list[str] = []
    question = question or _pick("question", QUESTIONS, rows, names, file, notes)
    answer = answer or _pick("answer", ANSWERS, rows, names, file, notes)
    for name in (question, answer):
        rows[0].value(name)
    # Rows further down may have an input where the first ones have none.
    has_input = any("input" in row.values for row in rows)
    context = "input" if question == "instruction" and has_input else ""
    if context:
        notes.append("context: input, in front of the instruction (Alpaca)")
    options = _options(rows, names)
    if options:
        notes.append(f"options: {options}, so the verifier is choice")
    return DataColumns(question, answer, options, context, tuple(notes))


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the columns that have a value in some row, in order; a nested one as `outer.inner`."""
    found: dict[str, None] = {}
    for row in rows:
        for name, value in row.values.items():
            if not row.has(name):
                continue
            found[name] = None
            if isinstance(value, dict) and not is_turns(value):
                found.update(dict.fromkeys(f"{name}.{inner}" for inner in value))
    return list(found)


def _pick(
    kind: str, ranks: Sequence[Sequence[str]], rows: Sequence[Row], names: Sequence[str], file: Path, notes: list[str]
) -> str:
    """Return the column of this kind. Raise UserError unless exactly one fits, and all rows have it."""
    for rank in ranks:
        fitting = [name for name in names if name.lower() in rank]
        if len(fitting) > 1:
            raise UserError(f"{file}: {' or '.join(fitting)} may be the {kind}; choose one with --{kind} NAME")
        if fitting:
            _check_filled(kind, fitting[0], rows)
            others = list(_others(ranks, names, fitting[0]))
            instead = f", preferred to {', '.join(others)}" if others else ""
            notes.append(f"{kind}: {fitting[0]}{instead}")
            return fitting[0]
    raise UserError(
        f"{file}: no column's name says that it is the {kind}; name it with --{kind} NAME: {', '.join(names)}"
    )


def _others(ranks: Sequence[Sequence[str]], names: Sequence[str], chosen: str) -> Iterator[str]:
    for rank in ranks:
        for name in names:
            if name.lower() in rank and name != chosen:
                yield name


def _check_filled(kind: str, name: str, rows: Sequence[Row]) -> None:
    for row in rows:
        if not row.has(name):
            raise UserError(
                f"{row.location}: the column {name!r} is empty; remove the row, or choose another column with --{kind} NAME"
            )


def _options(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the columns of the options of multiple choice, "" if there are none."""
    lists = [name for name in names if name.lower() in OPTIONS]
    if len(lists) == 1 and all(row.has(lists[0]) for row in rows):
        return f"{lists[0]}.text" if f"{lists[0]}.text" in names else lists[0]  # ARC has texts and labels
    return ",".join(LETTERS) if set(LETTERS) <= set(names) else ""
