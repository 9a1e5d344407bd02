"""Shards are read without running code that someone has put into them."""

from __future__ import annotations

import pickle
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_saver import save

from rethink.models.sharded_reader import SafePlanner
from rethink.models.sharded_weights import SHARDS, load_shards


class Payload:
    """Runs code, which writes a file, when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = {"model": {"a": torch.arange(7.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}, "lr": {"x": (0.5, None)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(state, checkpoint_id=tmp_path / "c" / SHARDS, no_dist=True)
    return tmp_path / "c"


def empty() -> dict[str, Any]:
    return {"model": {"a": torch.zeros(7), "b": torch.zeros(2, 3, dtype=torch.bfloat16)}, "lr": {"x": None}}


def test_tensors_and_plain_values_are_read(checkpoint: Path) -> None:
    """Guards against a list of classes that lacks one."""
    state = empty()
    load_shards(state, checkpoint, single_process=True)
    assert torch.equal(state["model"]["a"], torch.arange(7.0))
    assert torch.equal(state["model"]["b"], torch.ones(2, 3, dtype=torch.bfloat16))
    assert state["lr"]["x"] == (0.5, None)


def test_code_in_the_metadata_does_not_run(checkpoint: Path, tmp_path: Path) -> None:
    """Regression: `rethink eval FOLDER` ran it."""
    marker = tmp_path / "marker"
    file = checkpoint / SHARDS / ".metadata"
    good = pickle.loads(file.read_bytes())
    for content in (Payload(marker), [good, Payload(marker)], getattr, {"a": 1}):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(OSError, match=r"not belong into a checkpoint|not hold the metadata"):
            load_shards(empty(), checkpoint, single_process=True)
    assert not marker.exists()


def test_code_in_a_value_does_not_run(tmp_path: Path) -> None:
    """Guards against torch's own planner, which unpickles whatever an entry holds."""
    buffer, marker = BytesIO(), tmp_path / "marker"
    torch.save(Payload(marker), buffer)
    buffer.seek(0)
    item: ReadItem = None  # type: ignore[assignment]  # never reached
    with pytest.raises(pickle.UnpicklingError):
        SafePlanner().load_bytes(item, buffer)
    assert not marker.exists()
