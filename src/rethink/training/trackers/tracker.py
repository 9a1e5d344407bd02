"""What every experiment tracker does, and the numbers that it gets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rethink.evaluation.answers import Answer
from rethink.jsonl import Record

N_ROWS = 20
"""The number of rows in the table of an evaluation."""
COLUMNS = ("problem", "question", "gold", "first answer", "first verdict", "final answer", "final verdict")
NOT_NUMBERS = ("schema", "unix_s", "batch", "update", "optimizer_steps")
"""Numbers of a record that are no measurements. Trackers have times themselves."""


@dataclass(frozen=True)
class Start:
    """What a tracker needs to open a run: the run folder, its name there, an id that no other run has, the settings, and
    the tracker's own id of the run, "" if this is a new one.
    """

    folder: Path
    name: str
    id: str
    config: Record
    known_as: str = ""


class Tracker(Protocol):
    """A run that is open in an experiment tracker."""

    known_as: str

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers at an update."""

    def log_table(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        """Log rows of `COLUMNS`: the samples of an evaluation after an update."""

    def close(self) -> None:
        """Send what is left, and end the tracker's process, if it has one."""


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a record of metrics.jsonl, as train/PHASE/NAME or eval/NAME; of an estimate, the value
    is eval/NAME, and its interval eval/NAME/low and eval/NAME/high.

    >>> numbers_of({"phase": "solve", "update": 3, "reward": 0.5, "alarms": []})
    {'train/solve/reward': 0.5}
    >>> numbers_of({"phase": "evaluation", "update": 3, "refined": {"value": 0.4, "low": 0.3, "n": 8}})
    {'eval/refined': 0.4, 'eval/refined/low': 0.3, 'eval/refined/n': 8.0}
    """
    phase = record["phase"]
    group = "eval" if phase == "evaluation" else f"train/{phase}"
    return dict(_numbers(group, {k: v for k, v in record.items() if k not in NOT_NUMBERS}))


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        name = prefix if key == "value" else f"{prefix}/{key}"
        if isinstance(value, Mapping):
            yield from _numbers(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def table_of(answers: Sequence[Answer]) -> list[tuple[str, ...]]:
    """Return a row of `COLUMNS` for each of the first answers of an evaluation."""
    rows: list[tuple[str, ...]] = []
    for answer in answers[:N_ROWS]:
        if answer.finals:
            first, final = answer.steps[0], answer.final_steps[0]
            shown = (first.text, first.verdict, final.text, final.verdict)
            rows.append((answer.problem, answer.question, answer.gold, *shown))
    return rows
