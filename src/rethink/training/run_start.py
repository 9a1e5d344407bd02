"""How a run may start in its folder: as a new run, again if it never got to a checkpoint, or from its newest checkpoint.

Only rank 0 calls these functions. Nothing is overwritten or deleted that the run could still need.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rethink.errors import UserError
from rethink.jsonl import make_folder, refuse_newer_file, write_text
from rethink.lock import Lock
from rethink.recipe import Recipe, add_new_defaults, to_toml
from rethink.run_folder import START, RunFolder
from rethink.training import checkpoint, logs, problem_hash
from rethink.training.trackers import FILE as TRACKERS_FILE
from rethink.types import Problem

Warn = Callable[[str], None]


class RunLock:
    """The lock on a run folder, from `open_run` to the end of `train`: no other process writes to it."""

    def __init__(self, folder: RunFolder, warn: Warn) -> None:
        self._folder = folder
        self._warn = warn
        self._lock: Lock | None = None

    def take(self) -> None:
        """Lock the folder, if it exists and is not locked by this run. Raise UserError if another process has it."""
        if self._lock is None and self._folder.path.is_dir():
            self._lock = Lock(self._folder.path, self._warn)

    def release(self) -> None:
        """End the lock."""
        self._lock = None


def check_can_begin(folder: RunFolder) -> None:
    """Raise UserError if a new run would overwrite something. A run that never got to a checkpoint can begin again."""
    check_writable_folder(folder.path)
    file = folder.path / "config.toml"
    if not file.exists():
        folder.check_nothing_lost()
        return
    try:
        add_new_defaults(file.read_text(encoding="utf-8"))
    except ValueError:
        folder.check_unused()  # another program's file, or another version's
    if has_results(folder):
        folder.check_unused()


def check_writable_folder(path: Path) -> None:
    """Raise UserError if the folder, or its nearest parent that exists, is no folder or cannot be written to."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; choose another one with out=DIR")
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {path} (no permission, or a read-only disk); choose another one with out=DIR")


def begin(
    folder: RunFolder, recipe: Recipe, problems: Mapping[str, Sequence[Problem]], lock: RunLock, warn: Warn
) -> None:
    """Create the folder of a new run. If it holds a run without a checkpoint, keep the logs of that under other names."""
    make_folder(folder.path / "eval")
    lock.take()
    check_can_begin(folder)  # again, because opening the model takes a while
    (folder.path / TRACKERS_FILE).unlink(missing_ok=True)  # a run that begins again is another one to trackers
    (folder.path / START).unlink(missing_ok=True)  # its record is in the old log
    for file in (folder.metrics, folder.samples):
        aside = logs.set_aside(file, "old")
        write_text(file, "")
        if aside is not None:
            warn(f"{folder.path} held a run that had no checkpoint yet; its {file.name} is now {aside}")
    write_text(folder.path / "config.toml", to_toml(recipe))
    problem_hash.write(folder, problems)


def checkpoint_to_resume(folder: RunFolder, recipe: Recipe, warn: Warn) -> Path | None:
    """Return the newest whole checkpoint of the run, or None if it never had one.

    Raise UserError, and change nothing, for other settings, for logs of a newer version, and if all checkpoints are damaged
    or lost."""
    for file in (folder.metrics, folder.samples):
        refuse_newer_file(file)
    all_checkpoints = checkpoint.newest_first(folder.checkpoints)
    if folder.path.is_dir():
        check_writable_folder(folder.path)
    try:
        folder.refuse_other_settings(to_toml(recipe), add_new_defaults)
    except UserError as err:
        if all_checkpoints or not (folder.path / "config.toml").is_file() or has_results(folder):
            raise
        raise UserError(
            f"{err}. It has no checkpoint yet: without --resume, it begins again with these settings"
        ) from err
    if not all_checkpoints:
        if has_results(folder):
            raise UserError(
                f"{folder.path} has trained, but its checkpoints are gone from {folder.checkpoints}: put them back to "
                "resume, or start a new run with another out=DIR"
            )
        warn(f"{folder.path} has no checkpoint yet; starting from the beginning")
        return None
    faults: list[str] = []
    for candidate in all_checkpoints:
        fault = checkpoint.find_damage(candidate)
        if fault is None:
            for text in faults:
                warn(f"checkpoint {text}; resuming from {candidate.name}")
            return candidate
        faults.append(f"{candidate} is damaged ({fault})")
    raise UserError(
        f"cannot resume {folder.path}: {'; '.join(faults)}. Nothing was changed: restore the "
        "files, or start a new run with another out=DIR"
    )


def has_results(folder: RunFolder) -> bool:
    """Return whether the folder holds results, or its log continues after an update at which a checkpoint was due. The
    answers of the start model are none: a run can begin again without them."""
    if {*folder.results()} - {START}:
        return True
    try:
        every = tomllib.loads((folder.path / "config.toml").read_text(encoding="utf-8"))["checkpoint_every"]
    except (ValueError, KeyError):
        return True  # its settings are damaged: nobody knows what is in it
    return logs.n_updates_before_last_batch(folder) >= every
