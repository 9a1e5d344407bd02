"""What a run has trained, in words, from the records of its updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rethink.jsonl import Record
from rethink.training.alarms import NOTHING_TRAINED


@dataclass
class AlarmCount:
    """The updates with one kind of alarm: their number, and the text of the first."""

    n: int
    first_update: int
    first_text: str


def alarm_kind(text: str) -> str:
    """Return the kind of an alarm: its text before the first ": "."""
    return text.split(": ")[0]


def count_alarms(records: Sequence[Record]) -> dict[str, AlarmCount]:
    """Return the alarms of updates and evaluations by kind, in order of appearance."""
    found: dict[str, AlarmCount] = {}
    for record in records:
        kinds: set[str] = set()
        for text in record.get("alarms", ()):
            kind = alarm_kind(text)
            count = found.setdefault(kind, AlarmCount(0, record["update"], text))
            count.n += kind not in kinds
            kinds.add(kind)
    return found


def describe_alarms(records: Sequence[Record]) -> list[str]:
    """Return a line per kind of alarm: how often, and the first one."""
    n = len(records)
    lines: list[str] = []
    for count in count_alarms(records).values():
        lines.append(f"alarm in {count.n} of {n} updates, first in update {count.first_update}: {count.first_text}")
    return lines


def has_trained_nothing(updates: Sequence[Record]) -> bool:
    """Return whether there were updates, and none has trained anything."""
    alarm = count_alarms(updates).get(NOTHING_TRAINED)
    return alarm is not None and alarm.n == len(updates)


def describe_training(updates: Sequence[Record]) -> str:
    """Return in one line how much was trained: updates, optimizer steps, groups with unequal rewards, and replies that were
    not graded or cut.
    """
    if not updates:
        return "trained: nothing, there was no update"
    last = updates[-1]
    parts = [f"{len(updates)} updates, {last['optimizer_steps']} optimizer steps"]
    n_samples = n_not_graded = n_cut = 0
    unequal: list[float] = []
    for record in updates:
        n = record.get("n_samples", 0)
        n_samples += n
        n_not_graded += record.get("n_not_graded", 0)
        n_cut += round(n * (record.get("truncated_frac") or 0.0))
        if record.get("zero_std_groups_frac") is not None:
            unequal.append(1 - record["zero_std_groups_frac"])
    if unequal:
        parts.append(f"{100 * sum(unequal) / len(unequal):.0f}% of groups with unequal rewards")
    if n_samples:
        parts.append(f"{n_samples} replies ({n_not_graded} not graded, {n_cut} cut at max_tokens)")
    if last.get("n_overlong"):
        parts.append(f"{last['n_overlong']} prompts too long")
    return f"trained: {'; '.join(parts)}"
