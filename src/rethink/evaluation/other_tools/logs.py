"""Find and read the logs of other tools: files, and folders with a file per task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.other_tools import inspect_ai, lighteval, lm_eval
from rethink.evaluation.other_tools.scored import Scored, score_of
from rethink.problems.files import read_rows
from rethink.problems.rows import Row

TOOLS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (inspect_ai, ("*.eval", "*.json")),
    (lm_eval, ("samples_*.jsonl",)),
    (lighteval, ("details_*.parquet",)),
)
"""Each tool, and the names of its files in a folder."""
OURS = ("answers.jsonl", "config.toml")


@dataclass(frozen=True)
class Log:
    """An evaluation of another tool: its files, one per task."""

    path: Path
    tool: ModuleType
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        return str(self.tool.NAME)

    def read(self) -> list[Scored]:
        """Return all replies. Raise UserError if several files have the same task: it is open which of them is meant."""
        files: dict[str, Path] = {}
        found: list[Scored] = []
        for file in self.files:
            own = self.tool.read(file)
            for task in {scored.task for scored in own}:
                other = files.setdefault(task, file)
                if other != file:
                    raise UserError(
                        f"{self.path} has several evaluations of {task} ({other.name}, {file.name}); name one of the files"
                    )
            found += own
        return found


def find_log(path: Path) -> Log | None:
    """Return the log of another tool at a path; None if there is none, as for the folder of one of our evaluations."""
    is_ours = any((path / name).exists() for name in OURS)
    for tool, patterns in TOOLS:
        candidates = [path] if path.is_file() else []
        if path.is_dir() and not is_ours:
            for pattern in patterns:
                candidates += sorted(path.rglob(pattern))
        files = tuple(file for file in candidates if file.is_file() and tool.is_log(file))
        if files:
            return Log(path, tool, files)
    return None


def reply_rows(path: Path, strict: bool = True) -> Iterator[Row]:
    """Yield the rows of a file or folder of replies, which may be the log of another tool.

    The rows of a log have the columns `question`, `answer`, `response`, `task`, `id` and `repeat`, and one per score, as
    `score.NAME` if its name is that of another column.
    Replies that the tool did not get are left out if `strict`; otherwise their rows are `broken`.
    """
    log = find_log(path)
    return read_rows(path, strict) if log is None else _rows_of(log, strict)


def _rows_of(log: Log, strict: bool) -> Iterator[Row]:
    found = log.read()
    if not any(scored.replies for scored in found):
        raise UserError(f"{log.path} has no replies: {found[0].shown[:80] or found[0].error}")
    for n, scored in enumerate(found):
        location = f"{log.path}, {scored.task} {scored.doc}"
        problem = f"{scored.task}/{scored.doc}"
        values: dict[str, Any] = {
            "question": scored.question,
            "answer": scored.gold,
            "response": scored.text if len(scored.replies) == 1 else list(scored.replies),
            "task": scored.task,
            "id": scored.doc,
            "repeat": scored.repeat,
        }
        for name, value in scored.scores.items():
            values[f"score.{name}" if name in values else name] = _plain_score(value)
        if scored.replies:
            yield Row(location, values, n, problem=problem)
        elif not strict:
            yield Row(location, values, n, f"{location}: {scored.error or 'no reply'}", problem=problem)


def _plain_score(value: Any) -> Any:
    try:
        return score_of(value)
    except ValueError:
        return value
