"""Which paths name a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.models.bundled import TINY_MODEL, is_run, resolve
from rethink.models.checkpoint_files import hash_file


def test_names_and_folders_of_models(tmp_path: Path) -> None:
    """Guards against a hub name that is taken for a folder."""
    assert resolve("tiny") == str(TINY_MODEL)
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "counters.json").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({"counters.json": hash_file(folder / "counters.json")}))
    return folder


def test_a_run_is_its_newest_valid_checkpoint(tmp_path: Path) -> None:
    """Guards against an old, a half-written or a damaged checkpoint, and against the folder `runs/mine` being no model."""
    old, newest = (write_checkpoint(tmp_path / "checkpoints" / name) for name in ("000004", "000012"))
    (tmp_path / "checkpoints" / ".writing-000020").mkdir()
    assert is_run(tmp_path)
    assert not is_run(newest)
    assert resolve(str(tmp_path)) == str(newest)
    (newest / "manifest.json").write_text("[]")
    assert resolve(str(tmp_path)) == str(old)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    """Guards against the hub's words for a folder that is missing, or for a run without checkpoints."""
    with pytest.raises(UserError, match=r"there is no model folder \./missing"):
        resolve("./missing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=f"the run {tmp_path} has no whole checkpoint to use as a model$"):
        resolve(str(tmp_path))
    (tmp_path / "checkpoints" / "000012").mkdir()
    with pytest.raises(UserError, match=r"no whole checkpoint.*000012 is damaged \(no readable manifest.json\)$"):
        resolve(str(tmp_path))
