"""The numbers of runs and evaluations as a CSV table: a row per held-out evaluation of a run, or per suite and strategy."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rethink.errors import UserError
from rethink.jsonl import Record

ESTIMATES = ("accuracy", "solve", "refined", "gain", "fix", "fix_fresh", "damage", "damage_fresh", "tokens")
TRANSITIONS = ("right_right", "right_wrong", "wrong_right", "wrong_wrong")


def number_rows(runs: Sequence[Record]) -> list[Record]:
    """Return the numbers of each held-out evaluation of training runs, or of each suite and strategy of evaluations, from
    the records of a page's document. Estimates have four columns: NAME, NAME_low, NAME_high and NAME_n.

    Raise UserError for runs and evaluations together, for damaged records, and if there are no numbers yet.
    """
    if len({run["kind"] for run in runs}) > 1:
        raise UserError(
            "a table or a figure shows training runs or evaluations, not both: name the folders of one kind"
        )
    found: list[Record] = []
    for run in runs:
        try:
            found += _rows_of(run)
        except (LookupError, TypeError, AttributeError) as err:
            raise UserError(
                f"{run['name']}: the record of an evaluation is damaged, or of another version ({err!r})"
            ) from err
    if not found:
        raise UserError(f"there is no held-out evaluation yet in {', '.join(run['name'] for run in runs)}")
    return found


def _rows_of(run: Record) -> list[Record]:
    found: list[Record] = []
    for record in run.get("evaluations", ()):
        place = {"run": run["name"], "update": record["update"], "n_problems": record["n_problems"]}
        found.append(place | _estimates(record))
    for suite, own in run.get("suites", {}).items():
        for strategy, record in own["strategies"].items():
            place = {"run": run["name"], "suite": suite, "strategy": strategy, "n_problems": record["n_problems"]}
            found.append(place | _estimates(_flat(record)))
    return found


def to_csv(rows: Sequence[Record]) -> str:
    """Return rows as CSV. What is undefined is an empty cell.

    >>> to_csv([{"update": 3, "fix": 0.5, "fix_low": None}])
    'update,fix,fix_low\\n3,0.5,\\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(record: Mapping[str, Any]) -> Record:
    """Return a summary of a strategy with the names that records of training runs have."""
    refined = record["refined"]
    after = None if refined is None else refined["accuracy"]
    return {**record, "solve": record["solve"]["accuracy"], "refined": after, "tokens": record["cost"]["tokens"]}


def _estimates(record: Mapping[str, Any]) -> Record:
    row: Record = {}
    for name in ESTIMATES:
        estimate = record.get(name) or {}
        for key in ("value", "low", "high", "n"):
            value = estimate.get(key)
            is_number = value is not None and math.isfinite(value)
            row[name if key == "value" else f"{name}_{key}"] = value if is_number else None
    counts = record.get("transitions") or {}
    return {**row, **{name: counts.get(name) for name in TRANSITIONS}, "n_not_graded": record.get("n_not_graded")}
