"""Checkpoints that several processes wrote, each its own shards of the weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

SHARDS = "sharded"
"""The shards' folder within a checkpoint."""


def is_sharded(checkpoint: Path) -> bool:
    """Return whether several processes wrote this checkpoint."""
    return (checkpoint / SHARDS / ".metadata").is_file()


def read_weights(checkpoint: Path, module: Any) -> None:
    """Load a checkpoint's shards into an unsharded module, in one process."""
    weights = module.state_dict()
    load_shards({"model": weights}, checkpoint, single_process=True)
    module.load_state_dict(weights)


def load_shards(state: dict[str, Any], checkpoint: Path, *, single_process: bool, planner: Any = None) -> None:
    """Load a checkpoint's shards into the tensors of `state`; with `single_process`, without other ranks.

    Raise OSError if they cannot be read."""
    from rethink.models.sharded_reader import read_shards  # imported here: it takes half a second

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # expected here
        read_shards(state, checkpoint / SHARDS, single_process=single_process, planner=planner)
