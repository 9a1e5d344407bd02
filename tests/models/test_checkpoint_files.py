"""Damage in checkpoints, as a run and as a model see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.models.checkpoint_files import find_damage, hash_file, is_checkpoint, newest

FILES = ("model.safetensors", "chat_template.jinja", "optimizer.pt", "counters.json")


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(name)
    hashes = {name: hash_file(folder / name) for name in FILES}
    (folder / "manifest.json").write_text(json.dumps(hashes))
    return folder


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    """Guards against damage that is not there, and other programs' folders that are taken for checkpoints."""
    folder = write(tmp_path / "7")
    assert is_checkpoint(folder)
    assert find_damage(folder) is find_damage(folder, model_only=True) is None
    (tmp_path / "manifest.json").write_text('{"version": 1}')
    assert not is_checkpoint(tmp_path)


CHANGES: list[tuple[str, Callable[[Path], object], str | None, str | None]] = [
    ("model.safetensors", lambda f: f.write_text("model.safetensorz"), "has changed", "has changed"),
    ("chat_template.jinja", Path.unlink, "is missing", "is missing"),
    ("optimizer.pt", Path.unlink, "is missing", None),
    ("counters.json", lambda f: f.write_text("{}"), "has changed", None),
    ("manifest.json", Path.unlink, "no readable", "no readable"),
    ("manifest.json", lambda f: f.write_text("[]"), "no readable", "no readable"),
    ("manifest.json", lambda f: f.write_bytes(b"\xff"), "no readable", "no readable"),
]


@pytest.mark.parametrize(("name", "change", "for_run", "for_model"), CHANGES)
def test_damage(
    name: str, change: Callable[[Path], object], for_run: str | None, for_model: str | None, tmp_path: Path
) -> None:
    """Guards against a model with flipped bytes, a traceback for a broken manifest, a model that needs an optimizer."""
    folder = write(tmp_path / "7")
    change(folder / name)
    assert is_checkpoint(folder)
    for found, expected in ((find_damage(folder), for_run), (find_damage(folder, model_only=True), for_model)):
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert expected in found


def test_newest_may_lack_what_only_a_run_needs(tmp_path: Path) -> None:
    """Guards against an old model where the newest one is whole."""
    write(tmp_path / "000003")
    (write(tmp_path / "000010") / "optimizer.pt").unlink()
    warnings: list[str] = []
    assert newest(tmp_path, warnings.append, model_only=True) == tmp_path / "000010"
    assert warnings == []
    assert newest(tmp_path, warnings.append) == tmp_path / "000003"
    assert "optimizer.pt is missing" in warnings[0]
    assert newest(tmp_path / "nowhere", warnings.append) is None
