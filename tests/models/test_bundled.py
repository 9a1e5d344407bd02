"""Which paths name a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.models.bundled import TINY_MODEL, resolve


def test_names_and_folders_of_models(tmp_path: Path) -> None:
    """Guards against a hub name that is taken for a folder."""
    assert resolve("tiny") == str(TINY_MODEL)
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    """Guards against the hub's words for a folder that is missing, or that is the folder of a run."""
    with pytest.raises(UserError, match=r"there is no model folder \./missing"):
        resolve("./missing")
    newest = tmp_path / "checkpoints" / "000012"
    newest.mkdir(parents=True)
    (tmp_path / "checkpoints" / "000004").mkdir()
    with pytest.raises(UserError, match=f"is a run folder; name one of its checkpoints, such as {newest}"):
        resolve(str(tmp_path))
