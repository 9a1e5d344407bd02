"""An adapter (LoRA) whose parameters lie in shards, as the frozen weights around it do.

It is small: rank 0 gathers it and writes the files of one process, which any number of ranks goes on from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rethink.distributed import Ranks, raise_as_lost_rank
from rethink.models import lora
from rethink.training.engine import OPTIMIZER


def write(checkpoint: Path, module: Any, optimizer: torch.optim.Optimizer, base: str, ranks: Ranks) -> None:
    """The adapter and the state of its optimizer, with the base's fingerprint."""
    with raise_as_lost_rank(ranks.rank):
        tensors = {name: whole(p).cpu() for name, p in module.named_parameters() if p.requires_grad}
        state = optimizer.state_dict()
        state["state"] = dict(state["state"])
        for i, entries in state["state"].items():
            state["state"][i] = {key: _on_cpu(entry) for key, entry in entries.items()}
    if ranks.is_first:  # at the end: a rank that fails alone must not be waited for
        lora.write(checkpoint, module.peft_config[lora.NAME], tensors, base)
        torch.save(state, checkpoint / OPTIMIZER)


def whole(tensor: Tensor) -> Tensor:
    """All of it, from all ranks that have shards of it; no gradient goes back."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def _on_cpu(entry: Any) -> Any:
    return whole(entry).cpu() if isinstance(entry, Tensor) else entry
