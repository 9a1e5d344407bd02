"""Atomic checkpoints: written to a temporary folder, hashed, synced to disk, then renamed.

A checkpoint is an ordinary Hugging Face folder (weights, config, tokenizer), which other programs can load, with the
optimizer's state and the run's counters in it. Several processes write shards instead of one file of weights. With LoRA it
holds the adapter, in the format of `peft`, which names the base model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rethink.distributed import CommonError
from rethink.errors import UserError
from rethink.models.checkpoint_files import COUNTERS, MANIFEST, find_damage, hash_file, newest, newest_first
from rethink.models.file_modes import allow_as_usual
from rethink.training.trainer import Trainer

__all__ = ["Counters", "find_damage", "load", "newest", "newest_first", "put_back", "require_plain", "save", "tidy"]

PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Counters:
    """The progress of a run. `n_batches` counts the finished problem batches, `position` is that of the problem stream,
    `state` is the method's state, and `sampled_ahead` is what was sampled for each of the next batches
    (`training.sampling_ahead`). Everything else follows from seeds.

    `evaluation_due`: the held-out evaluation of these weights comes next. `interim`: the checkpoint only guards against a
    loss, and the next one replaces it, so which checkpoints stay does not depend on clocks and stops. `logs`: the size and
    hash of each log (`logs.measure`)."""

    n_batches: int
    n_updates: int
    n_optimizer_steps: int
    n_overlong: int
    state: dict[str, Any] = field(default_factory=dict)
    sampled_ahead: list[dict[str, Any]] = field(default_factory=list)
    evaluation_due: bool = False
    interim: bool = False
    logs: dict[str, Any] = field(default_factory=dict)
    position: tuple[int, int] | None = None


def save(folder: Path, trainer: Trainer, counters: Counters, keep: int) -> Path:
    """Write a checkpoint into the folder of checkpoints, and tidy the folder. Return the checkpoint's path.

    With several ranks, each writes its shards and rank 0 everything else. Raise UserError, on all ranks, if it cannot be
    written (a full disk, say); older checkpoints then stay as they were.
    """
    ranks = trainer.engine.ranks
    final = folder / f"{counters.n_updates:06d}"
    temporary = folder / f".writing-{counters.n_updates:06d}"
    ranks.on_rank0(lambda: _guarded(final, temporary, lambda: _make_temporary(temporary)))
    ranks.on_all_ranks(lambda: _guarded(final, temporary, lambda: _write_weights(temporary, trainer)))
    ranks.on_rank0(lambda: _guarded(final, temporary, lambda: _finish(temporary, final, trainer, counters)))
    if ranks.is_rank0:
        tidy(final, keep)
    return final


def tidy(current: Path, keep: int) -> None:
    """Remove what a killed process left, and checkpoints older than the current one: all but the newest `keep`, counting
    the current one, and all interim ones.

    A newer checkpoint is damaged, because a run resumes from the newest valid one: it does not count, and it stays."""
    for leftover in (*current.parent.glob(".writing-*"), *current.parent.glob(".removing-*")):
        shutil.rmtree(leftover, ignore_errors=True)
    n_kept = 0 if _is_interim(current) else 1
    for checkpoint in newest_first(current.parent):
        if int(checkpoint.name) >= int(current.name):
            continue
        if n_kept < keep and not _is_interim(checkpoint):
            n_kept += 1
        else:
            _remove(checkpoint)


def put_back(folder: Path) -> None:
    """Give the newest checkpoint its name again if the process was killed just before its successor of the same update had
    it. Removed checkpoints are never the newest."""
    for moved in folder.glob(".removing-*"):
        original = folder / moved.name.split("-")[1]
        is_newest = all(int(other.name) < int(original.name) for other in newest_first(folder))
        if is_newest and find_damage(moved) is None:
            moved.rename(original)


def load(checkpoint: Path, trainer: Trainer) -> Counters:
    """Restore optimizer and version of a trainer whose model was loaded from this checkpoint; return the counters."""
    trainer.engine.read(checkpoint, trainer.optimizer)
    trainer.reference.read(checkpoint)
    counters = Counters(**json.loads((checkpoint / COUNTERS).read_text()))
    trainer.version = counters.n_updates
    trainer.n_optimizer_steps = counters.n_optimizer_steps
    return counters


def require_plain(state: dict[str, Any]) -> None:
    """Raise CommonError if a method's state is not plain data, which a checkpoint restores as it was."""
    fault = _not_plain(state, "actors.state")
    if fault:
        raise CommonError(
            f"a checkpoint cannot keep {fault}: a method's state may hold text, numbers, booleans, None, lists, and "
            "dictionaries with text as keys"
        )


def _not_plain(value: Any, place: str) -> str:
    """Return what JSON would refuse or change in a value, and its place; "" if nothing."""
    if isinstance(value, PLAIN):
        return ""
    if isinstance(value, list):
        if set(map(type, value)).issubset(PLAIN):  # token ids, of which there may be many
            return ""
        items: list[tuple[Any, Any]] = list(enumerate(value))
    elif isinstance(value, dict):
        items = list(value.items())
    else:
        return f"{place}, a {type(value).__name__}"
    for key, item in items:
        if isinstance(value, dict) and not isinstance(key, str):
            return f"the key {key!r} of {place}"
        fault = _not_plain(item, f"{place}[{key!r}]")
        if fault:
            return fault
    return ""


def _guarded(final: Path, temporary: Path, write: Callable[[], None]) -> None:
    """Call `write`. On failure, remove the partial checkpoint and raise UserError with the name of the last good one."""
    try:
        write()
    except Exception as err:
        cause = _cause(err)
        if not cause:
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        last = newest(final.parent, lambda _: None)
        kept = f"the last good checkpoint, {last}, is untouched" if last else "there is no earlier checkpoint"
        raise UserError(f"cannot write the checkpoint {final}: {cause}; {kept}") from err


def _cause(err: Exception) -> str:
    """Return why a file could not be written, without the raw text of a library; "" for other errors."""
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    number = re.search(r"\(os error (\d+)\)", str(err))  # safetensors and tokenizers, which raise plain exceptions
    if number:
        return os.strerror(int(number[1]))
    if isinstance(err, SafetensorError) or "inline_container" in str(err) or "PytorchStreamWriter" in str(err):
        return "a file could not be written to its end (is the disk full?)"
    return str(err).partition("\n")[0] if isinstance(err, OSError | RuntimeError) else ""


def _write_weights(folder: Path, trainer: Trainer) -> None:
    trainer.engine.write(folder, trainer.optimizer)
    trainer.reference.write(folder)


def _make_temporary(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, trainer: Trainer, counters: Counters) -> None:
    """Complete a checkpoint and give it its name. One of the same update, from before a batch without updates, is replaced:
    until then it stays, because it may be the only one."""
    if final.exists() and not _is_interim(final):
        counters = replace(counters, interim=False)
    _write_metadata(temporary, trainer, counters)
    replaced = _move_away(final)
    try:
        temporary.rename(final)
    except OSError:
        if replaced is not None:
            replaced.rename(final)
        raise
    _sync(final.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def _write_metadata(folder: Path, trainer: Trainer, counters: Counters) -> None:
    trainer.model.chat.save(folder)
    (folder / COUNTERS).write_text(json.dumps(counters.__dict__))
    allow_as_usual(folder)
    hashes = {f.relative_to(folder).as_posix(): hash_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def _is_interim(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / COUNTERS).read_text())["interim"])
    except (OSError, ValueError, LookupError, TypeError):
        return False  # damaged, or from an older version


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, of a link only the link. A checkpoint that is half removed has no number any more."""
    moved = _move_away(checkpoint)
    if moved is not None:
        shutil.rmtree(moved, ignore_errors=True)  # what cannot be removed now is removed next time


def _move_away(checkpoint: Path) -> Path | None:
    """Give a checkpoint that is to be removed another name, and return it. Of a link, remove the link."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
    elif checkpoint.exists():
        target = checkpoint.with_name(f".removing-{checkpoint.name}-{os.urandom(4).hex()}")  # an older one may be left
        return checkpoint.rename(target)
    return None


def _sync(path: Path) -> None:
    """Flush a file or folder to disk: a rename must not become visible before the files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
