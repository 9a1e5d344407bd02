"""The JSON document that the page shows: the numbers of runs and evaluations, and the replies of each.

docs/page.md describes it. `SCHEMA` grows when a field changes its meaning.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, answer_from_record, by_strategy, by_suite
from rethink.evaluation.bounds import NOTE
from rethink.evaluation.fresh import why_no_fresh
from rethink.evaluation.summary import summarize
from rethink.jsonl import Record, read_lines
from rethink.report.folders import Source
from rethink.report.outcome import alarm_kind, count_alarms, describe_alarms, describe_training
from rethink.report.replies import Limits, ReplyTable
from rethink.version import __version__

SCHEMA = 1
DIGITS = 6
"""Significant digits of the numbers of updates."""

UNSHOWN = {"schema", "unix_s", "alarms", "pass_seed"}
"""Fields of an update that no chart shows; alarms are listed apart."""


def read_document(sources: Sequence[Source], strict: bool = True) -> Record:
    """Return the numbers of these runs and evaluations.

    Raise UserError for a folder that cannot be read; if not `strict`, it has no numbers, but a note that says why.
    """
    runs: list[Record] = []
    for number, source in enumerate(sources):
        try:
            with _naming(source):
                found = read_training(source) if source.is_training else read_evaluation(source)
        except UserError as err:
            if strict:
                raise
            found = {**_NOTHING, "notes": [str(err)]}
        runs.append({"id": number, "name": source.name, **found, "replies_stamp": source.replies_stamp()})
    return {"schema": SCHEMA, "rethink": __version__, "runs": runs}


_NOTHING: Record = {
    "kind": "evaluation",
    "settings": "",
    "model": None,
    "is_complete": True,  # no further answers are awaited
    "suites": {},
    "mean": None,
    "graded_by": None,
    "seconds": None,
}
"""What the page shows of a folder that cannot be read: an evaluation without answers."""


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Raise UserError with the folder's name for files that are damaged, or not ours."""
    try:
        yield
    except (UserError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as err:
        why = str(err) if isinstance(err, UserError | OSError) else repr(err)
        raise UserError(
            f"cannot read {source.folder}: its files are damaged, or of another program or version ({why[:200]})"
        ) from err


def read_training(source: Source) -> Record:
    """Return the settings, updates, evaluations and alarms of a training run."""
    updates: list[Record] = []
    evaluations: list[Record] = []
    for _, record in read_lines(source.run.metrics):
        int(record["update"])  # every record has one
        (evaluations if record["phase"] == "evaluation" else updates).append(record)
    text, settings = source.settings()
    wanted = settings.get("updates")
    return {
        "kind": "training",
        "settings": text,
        "method": settings.get("method", {}).get("name"),
        "model": settings.get("model", {}).get("path"),
        "n_updates": updates[-1]["update"] if updates else 0,
        "n_wanted": wanted,
        "trained": describe_training(updates),
        "alarms": _alarms(updates),
        "notes": _notes(evaluations),
        "updates": to_columns(updates),
        "evaluations": evaluations,
    }


def _alarms(updates: Sequence[Record]) -> list[Record]:
    """Return the kinds of alarms in words, each with the updates that had it."""
    places: dict[str, list[int]] = defaultdict(list)
    for record in updates:
        for kind in dict.fromkeys(map(alarm_kind, record.get("alarms", ()))):
            places[kind].append(record["update"])
    found: list[Record] = []
    for kind, text in zip(count_alarms(updates), describe_alarms(updates), strict=True):
        found.append({"kind": kind, "text": text, "updates": places[kind]})
    return found


def _notes(evaluations: Sequence[Record]) -> list[str]:
    """Return what a reader of the rates must know: bounds for ungraded replies, and why there is no control."""
    graded = NOTE if any(record.get("n_not_graded") for record in evaluations) else ""
    return list(filter(None, [graded, why_no_fresh(evaluations)]))


def read_evaluation(source: Source) -> Record:
    """Return the settings and the summaries of an evaluation: those of summary.json or, before it is complete, of the
    answers so far.
    """
    text, settings = source.settings()
    summary = _read_json(source.summary)
    is_complete = "suites" in summary
    suites = summary["suites"] if is_complete else summarize_answers(source.answers)
    return {
        "kind": "evaluation",
        "settings": text,
        "model": summary.get("model") or settings.get("model", {}).get("path"),
        "is_complete": is_complete,
        "suites": suites,
        "mean": summary.get("mean"),
        "graded_by": summary.get("graded_by"),
        "seconds": summary.get("seconds"),
        "notes": [NOTE] if _has_ungraded(suites) else [],
    }


def summarize_answers(file: Path) -> Record:
    """Return the summaries of the answers in a file by suite and strategy, as summary.json has them."""
    answers: list[Answer] = []
    for _, record in read_lines(file):
        answers.append(answer_from_record(record))
    found: Record = {}
    for suite, own in by_suite(answers).items():
        rows = {name: asdict(summarize(some)) for name, some in by_strategy(own).items()}
        found[suite] = {"strategies": rows, "baselines": {}, "gaps": []}
    return found


def _has_ungraded(suites: Record) -> bool:
    return any(row["n_not_graded"] for own in suites.values() for row in own["strategies"].values())


def _read_json(file: Path) -> Record:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def to_columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return the numbers of records by name, with None where a record has none.

    >>> to_columns([{"update": 1, "reward": 1 / 3}, {"update": 2, "fix": 0.5}])
    {'update': [1, 2], 'reward': [0.333333, None], 'fix': [None, 0.5]}
    """
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record)
    columns: dict[str, list[Any]] = {}
    for name in names:
        if name not in UNSHOWN:
            columns[name] = [_rounded(record.get(name)) for record in records]
    return columns


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def read_replies(source: Source, limits: Limits | None = None) -> Record:
    """Return the replies of a run or an evaluation, as many as the limits allow.

    Of a training run these are, in this order, the last evaluation, the first one, the logged samples of training from the
    newest, and the other evaluations from the newest. Raise UserError for a folder that cannot be read.
    """
    with _naming(source):
        return _read_replies(source, ReplyTable(limits or Limits()))


def _read_replies(source: Source, table: ReplyTable) -> Record:
    if not source.is_training:
        records = _records(source.answers)
        for record in _until_full(table, records):
            table.add_answer(record, "evaluation", None)
        return table.data(len(records))
    files = source.evaluations()
    n_total = 0
    for file in [*files[:1], *files[1:][-1:]]:
        n_total += _add_held_out(table, file)
    samples = _records(source.run.samples)
    for record in _until_full(table, reversed(samples)):
        table.add_sample(record)
    n_total += len(samples)
    for file in files[1:-1]:
        n_total += _add_held_out(table, file)
    return table.data(n_total)


def _add_held_out(table: ReplyTable, file: Path) -> int:
    """Add the answers of an evaluation of a training run. Return how many there are."""
    if table.is_full:
        return file.read_bytes().count(b"\n")
    records = _records(file)
    for record in _until_full(table, records):
        table.add_answer(record, "held-out", int(file.stem))
    return len(records)


def _records(file: Path) -> list[Record]:
    return [record for _, record in read_lines(file)]


def _until_full(table: ReplyTable, records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        if table.is_full:
            return
        yield record
