"""Atomic checkpoints: written to a temporary folder, hashed, synced to disk, then renamed.

A checkpoint is an ordinary Hugging Face folder (weights, config, tokenizer), which other programs can load, with the
optimizer's state and the run's counters in it. Several processes write shards instead of one file of weights. With LoRA it
holds the adapter, in the format of `peft`, which names the base model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rethink.errors import UserError
from rethink.models.checkpoint_files import COUNTERS, MANIFEST, find_damage, hash_file, newest, newest_first
from rethink.training.trainer import Trainer

__all__ = ["Counters", "find_damage", "load", "newest", "save"]


@dataclass(frozen=True)
class Counters:
    """The progress of a run. The number of finished problem batches is the position in the data, `state` is the method's
    state, and `sampled_ahead` is what was sampled for the next batch (`training.one_step_off_policy`). Everything else
    follows from seeds."""

    n_batches: int
    n_updates: int
    n_optimizer_steps: int
    n_overlong: int
    state: dict[str, Any] = field(default_factory=dict)
    sampled_ahead: dict[str, Any] | None = None


def save(folder: Path, trainer: Trainer, counters: Counters, keep: int) -> Path:
    """Write a checkpoint into the folder of checkpoints, and delete all but the newest `keep`. Return its path.

    With several ranks, each writes its shards and rank 0 everything else. Raise UserError, on all ranks, if it cannot be
    written (a full disk, say); older checkpoints then stay as they were.
    """
    ranks = trainer.engine.ranks
    final = folder / f"{counters.n_updates:06d}"
    temporary = folder / f".writing-{counters.n_updates:06d}"
    ranks.on_rank0(lambda: _guarded(final, temporary, lambda: _make_temporary(temporary)))
    ranks.on_all_ranks(lambda: _guarded(final, temporary, lambda: trainer.engine.write(temporary, trainer.optimizer)))
    ranks.on_rank0(lambda: _guarded(final, temporary, lambda: _finish(temporary, final, trainer, counters)))
    if ranks.is_rank0:
        # A newer checkpoint is damaged, because a run resumes from the newest valid one: do not count it in `keep`.
        written = [p for p in newest_first(folder) if int(p.name) <= counters.n_updates]
        for old in written[keep:]:
            _remove(old)
    return final


def load(checkpoint: Path, trainer: Trainer) -> Counters:
    """Restore optimizer and version of a trainer whose model was loaded from this checkpoint; return the counters."""
    trainer.engine.read(checkpoint, trainer.optimizer)
    counters = Counters(**json.loads((checkpoint / COUNTERS).read_text()))
    trainer.version = counters.n_updates
    trainer.n_optimizer_steps = counters.n_optimizer_steps
    return counters


def _guarded(final: Path, temporary: Path, write: Callable[[], None]) -> None:
    """Call `write`. On failure, remove the partial checkpoint and raise UserError with the name of the last good one."""
    try:
        write()
    except (OSError, RuntimeError, SafetensorError) as err:
        shutil.rmtree(temporary, ignore_errors=True)
        last = newest(final.parent, lambda _: None)
        kept = f"the last good checkpoint, {last}, is untouched" if last else "there is no earlier checkpoint"
        raise UserError(f"cannot write the checkpoint {final}: {err}; {kept}") from err


def _make_temporary(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, trainer: Trainer, counters: Counters) -> None:
    _write_metadata(temporary, trainer, counters)
    if final.exists():
        _remove(final)
    temporary.rename(final)
    _sync(final.parent)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; of a symbolic link to one, only the link."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
    else:
        shutil.rmtree(checkpoint)


def _write_metadata(folder: Path, trainer: Trainer, counters: Counters) -> None:
    trainer.model.chat.tokenizer.save_pretrained(folder)
    (folder / COUNTERS).write_text(json.dumps(counters.__dict__))
    hashes = {f.relative_to(folder).as_posix(): hash_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk: a rename must not become visible before the files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
