"""Checkpoints of several processes: each wrote its own shards of the weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

SHARDS = "sharded"
"""Where in a checkpoint of several processes the shards lie."""


def is_sharded(checkpoint: Path) -> bool:
    """Return whether several processes wrote it."""
    return (checkpoint / SHARDS / ".metadata").is_file()


def read_weights(checkpoint: Path, module: Any) -> None:
    """Fill a whole module from a checkpoint's shards, in this process alone."""
    weights = module.state_dict()
    load_shards({"model": weights}, checkpoint, single_process=True)
    module.load_state_dict(weights)


def load_shards(state: dict[str, Any], checkpoint: Path, *, single_process: bool, planner: Any = None) -> None:
    """Fill the tensors of `state` from a checkpoint's shards; `single_process` needs no other rank."""
    from torch.distributed.checkpoint.state_dict_loader import load  # imported here: it takes half a second

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be
        load(state, checkpoint_id=checkpoint / SHARDS, planner=planner, no_dist=single_process)
