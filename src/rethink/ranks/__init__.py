"""One run in several processes, which `torchrun` starts: all do the same in lockstep, each with a share of the work."""

from __future__ import annotations

from pathlib import Path

SHARDS = "sharded"
"""Where in a checkpoint of several processes the shards lie."""


def is_sharded(checkpoint: Path) -> bool:
    """Whether several processes wrote it."""
    return (checkpoint / SHARDS / ".metadata").is_file()
