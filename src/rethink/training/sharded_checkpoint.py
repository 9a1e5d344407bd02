"""Sharded checkpoints: every rank writes and reads its own shards, with `torch.distributed.checkpoint`.

Any number of ranks can read what another number has written, and so can a single process: entries have the names of
parameters, not of ranks. Averages in 8 bits are written as float32, because their blocks of 256 numbers begin where a
rank's shard begins, and with another number of ranks there are other shards.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem, WriteItem
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from rethink.models.sharded_reader import SafePlanner, first_cause
from rethink.models.sharded_weights import SHARDS, load_shards
from rethink.training.optimizer import dequantize, is_quantized, without_compilation, write_average


def write(checkpoint: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write this rank's shards of weights and optimizer state. Raise OSError if they cannot be written."""
    weights, state = _state_of(module, optimizer)
    try:
        save({"model": weights, "optimizer": state}, checkpoint_id=checkpoint / SHARDS, planner=_Dequantizing())
    except CheckpointException as err:
        raise OSError(first_cause(err)) from err


def read(checkpoint: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, *, single_process: bool) -> None:
    """Load weights and optimizer state from a checkpoint's shards; with `single_process`, in a single process."""
    weights, state = _state_of(module, optimizer)
    load_shards(
        {"model": weights, "optimizer": state}, checkpoint, single_process=single_process, planner=_Quantizing()
    )
    set_state_dict(module, optimizer, model_state_dict=weights, optim_state_dict=state)


def shard_optimizer_state(file: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load this rank's shards of the optimizer state that a single process has written."""
    state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    if not state["state"]:
        return  # no step was taken yet
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    _, own = _state_of(module, optimizer)
    for i, entries in state["state"].items():
        for key, whole in entries.items():
            _write_shard(own["state"][names[i]][key], dequantize(whole))


def _write_shard(place: Tensor, whole: Tensor) -> None:
    if isinstance(place, DTensor):
        share = distribute_tensor(whole, place.device_mesh, place.placements, src_data_rank=None)
        write_average(place.to_local(), share.to_local())
    else:
        place.copy_(whole)


def _state_of(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return weights and optimizer state, by name. If the optimizer has no state yet, torch creates it by a step with
    gradients of zero, which must not count, neither in the checkpoint nor in the run."""
    untouched = not optimizer.state
    with without_compilation(optimizer):
        weights, state = get_state_dict(module, optimizer)
    for entries in optimizer.state.values() if untouched else ():
        entries["step"].zero_()
    return weights, cast(dict[str, Any], state)


class _Dequantizing(DefaultSavePlanner):
    """Writes averages in float32, one at a time."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        return super().transform_object(write_item, dequantize(object))


class _Quantizing(SafePlanner):
    """Reads averages in float32, and quantizes each one once its last piece is there."""

    def finish_plan(self, new_plan: LoadPlan) -> LoadPlan:
        self._n_left = Counter(item.dest_index for item in new_plan.items)
        self._values: dict[MetadataIndex, Tensor] = {}
        return super().finish_plan(new_plan)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        found = super().lookup_tensor(index)
        if not is_quantized(found):
            return found
        return self._values.setdefault(index, torch.empty(found.shape, device=found.device))

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        index = read_item.dest_index
        self._n_left[index] -= 1
        if not self._n_left[index] and index in self._values:
            write_average(super().lookup_tensor(index), self._values.pop(index))
