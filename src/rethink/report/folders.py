"""What a page is made of: the training runs and evaluations in the folders that were named."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rethink.errors import UserError
from rethink.evaluation.unchanged import ANSWERS_FILE, SUMMARY_FILE
from rethink.jsonl import Record
from rethink.run_folder import RunFolder

DEPTH = 3
"""How far below a named folder runs are searched for."""


@dataclass(frozen=True)
class Source:
    """One training run or evaluation: its folder, and the name that the page shows."""

    folder: Path
    name: str

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def is_training(self) -> bool:
        return self.run.metrics.is_file()

    @property
    def answers(self) -> Path:
        return self.folder / ANSWERS_FILE

    @property
    def summary(self) -> Path:
        return self.folder / SUMMARY_FILE

    def evaluations(self) -> list[Path]:
        """Return the answers files of a training run, the newest first."""
        return sorted((self.folder / "eval").glob("[0-9]*.jsonl"), reverse=True)

    def settings(self) -> tuple[str, Record]:
        """Return config.toml as text and as tables; both are empty if it is not readable."""
        try:
            text = (self.folder / "config.toml").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "", {}
        try:
            return text, tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return text, {}

    def metrics_stamp(self) -> str:
        """Return a text that changes with the files of the numbers."""
        return _stamp([self.run.metrics, self.summary, self.folder / "config.toml"])

    def replies_stamp(self) -> str:
        """Return a text that changes with the files of the replies."""
        return _stamp([self.run.samples, self.answers, *self.evaluations()])


def find_sources(folders: Sequence[Path]) -> list[Source]:
    """Return the runs and evaluations in these folders: a folder itself, or those below it.

    Raise UserError for a folder that holds none.
    """
    found: dict[Path, Source] = {}
    for folder in folders:
        inside = sources_in(folder, is_alone=len(folders) == 1)
        if not inside:
            raise UserError(f"{folder} holds no run (metrics.jsonl) and no evaluation ({ANSWERS_FILE})")
        for source in inside:
            found.setdefault(source.folder.resolve(), source)
    return list(found.values())


def sources_in(folder: Path, is_alone: bool) -> list[Source]:
    """Return the runs and evaluations in a folder. Unless it `is_alone`, the names of those below it begin with its own.

    Raise UserError for a folder that is not there or cannot be read."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the folder of a run or an evaluation")
    try:
        inside = list(_search(folder, DEPTH))
    except OSError as err:
        raise UserError(f"cannot look for runs in {err.filename}: {err.strerror}; name their folders") from err
    found: list[Source] = []
    for path in inside:
        name = path.resolve().name if path == folder else str(path.relative_to(folder))
        if not is_alone and path != folder:
            name = f"{folder.resolve().name}/{name}"
        found.append(Source(path, name))
    return found


def _search(folder: Path, depth: int) -> Iterator[Path]:
    source = Source(folder, "")
    if source.is_training or source.answers.is_file():
        yield folder
    elif depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _search(path, depth - 1)


def _stamp(files: Sequence[Path]) -> str:
    parts: list[str] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        parts.append(f"{file.name}:{status.st_size}:{status.st_mtime_ns}")
    return ";".join(parts)
