"""Checkpoints that are whole or not there: written to a temporary name, checked by hash, renamed, then listed.

A checkpoint is an ordinary Hugging Face folder (weights, config, tokenizer) with the optimizer and the run's counters
beside them, so that it can be loaded by anything else as well; several processes write shards instead. With LoRA it holds
the adapter in `peft`'s format, which names its base, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rethink.errors import UserError
from rethink.training.trainer import Trainer

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Counters:
    """Where a run stands. The data cursor is the number of finished problem batches, `state` what the method remembers,
    `sampled_ahead` what was sampled for the next batch (see `training.one_step_off_policy`); the rest follows from seeds."""

    n_batches: int
    n_updates: int
    n_optimizer_steps: int
    n_overlong: int
    state: dict[str, Any] = field(default_factory=dict)
    sampled_ahead: dict[str, Any] | None = None


def save(folder: Path, trainer: Trainer, counters: Counters, keep: int) -> Path:
    """Write a checkpoint into the folder of checkpoints and drop all but the newest `keep`.

    Of several ranks each writes its shards, and rank 0 the rest. Raises UserError, on all of them, when it cannot be
    written (a full disk); older checkpoints are then untouched.
    """
    ranks = trainer.engine.ranks
    final = folder / f"{counters.n_updates:06d}"
    temporary = folder / f".writing-{counters.n_updates:06d}"
    ranks.on_rank0(lambda: _guarded(final, temporary, lambda: _begin(temporary)))
    ranks.on_all_ranks(lambda: _guarded(final, temporary, lambda: trainer.engine.write(temporary, trainer.optimizer)))
    ranks.on_rank0(lambda: _guarded(final, temporary, lambda: _finish(temporary, final, trainer, counters)))
    if ranks.is_rank0:
        # A newer one is damaged (a run goes on from the newest whole one), and must not count as one of those kept.
        written = [p for p in _by_age(folder) if int(p.name) <= counters.n_updates]
        for old in written[keep:]:
            shutil.rmtree(old)
    return final


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint; a damaged one is named to `warn` and passed over."""
    for candidate in _by_age(folder):
        fault = find_damage(candidate)
        if fault is None:
            return candidate
        warn(f"checkpoint {candidate} is damaged ({fault}); looking for an older one")
    return None


def load(checkpoint: Path, trainer: Trainer) -> Counters:
    """Restore optimizer and counters into a trainer whose model was loaded from the same checkpoint."""
    trainer.engine.read(checkpoint, trainer.optimizer)
    counters = Counters(**json.loads((checkpoint / "counters.json").read_text()))
    trainer.version = counters.n_updates
    trainer.n_optimizer_steps = counters.n_optimizer_steps
    return counters


def _guarded(final: Path, temporary: Path, do: Callable[[], None]) -> None:
    """What cannot be written leaves nothing behind, and is told together with what there is to go on from."""
    try:
        do()
    except (OSError, RuntimeError, SafetensorError) as err:
        shutil.rmtree(temporary, ignore_errors=True)
        last = newest(final.parent, lambda _: None)
        kept = f"the last good checkpoint, {last}, is untouched" if last else "there is no earlier checkpoint"
        raise UserError(f"cannot write the checkpoint {final}: {err}; {kept}") from err


def _begin(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, trainer: Trainer, counters: Counters) -> None:
    _complete(temporary, trainer, counters)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(final.parent)


def _complete(folder: Path, trainer: Trainer, counters: Counters) -> None:
    trainer.model.chat.tokenizer.save_pretrained(folder)
    (folder / "counters.json").write_text(json.dumps(counters.__dict__))
    hashes = {f.relative_to(folder).as_posix(): _hash(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is."""
    try:
        hashes: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"no readable {MANIFEST}"
    for name, wanted in hashes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if _hash(file) != wanted:
            return f"{name} has changed since it was written"
    return None


def _by_age(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def _hash(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file or folder to disk: a rename must not become visible before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
