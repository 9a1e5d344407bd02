"""Checkpoints of a LoRA adapter whose parameters are sharded, like the frozen weights around it.

An adapter is small: rank 0 gathers it and writes the same files as a single process, so any number of ranks can resume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rethink.distributed import Ranks, raise_as_lost_rank
from rethink.models import lora
from rethink.models.checkpoint_files import OPTIMIZER


def write(checkpoint: Path, module: Any, optimizer: torch.optim.Optimizer, base: str, ranks: Ranks) -> None:
    """Write the adapter, the state of its optimizer, and the fingerprint `base` of the base weights."""
    with raise_as_lost_rank(ranks.rank):
        tensors = {name: full_tensor(p).cpu() for name, p in module.named_parameters() if p.requires_grad}
        state = optimizer.state_dict()
        state["state"] = dict(state["state"])
        for i, entries in state["state"].items():
            state["state"][i] = {key: _to_cpu(entry) for key, entry in entries.items()}
    if ranks.is_rank0:  # last, because no rank may wait for one that fails alone
        lora.write(checkpoint, module.peft_config[lora.NAME], tensors, base)
        torch.save(state, checkpoint / OPTIMIZER)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor, gathered from all ranks if it is sharded, without a gradient."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def _to_cpu(entry: Any) -> Any:
    return full_tensor(entry).cpu() if isinstance(entry, Tensor) else entry
