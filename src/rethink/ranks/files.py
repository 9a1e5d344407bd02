"""Sharded checkpoints: every rank writes and reads its own shards, by `torch.distributed.checkpoint`.

What was written by some number of ranks can be read by any other, and by one process without any. Entries have the names
of the parameters, not those of ranks.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from rethink.ranks import SHARDS


def write(checkpoint: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Weights and optimiser state of this rank's shards. Raises OSError when they cannot be written."""
    weights, state = _state_of(module, optimiser)
    try:
        save({"model": weights, "optimiser": state}, checkpoint_id=checkpoint / SHARDS)
    except CheckpointException as err:
        raise OSError(_first_cause(err)) from err


def read(checkpoint: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer, *, alone: bool) -> None:
    """Fill weights and optimiser from a checkpoint's shards; `alone` needs no other process."""
    weights, state = _state_of(module, optimiser)
    _load({"model": weights, "optimiser": state}, checkpoint, alone)
    set_state_dict(module, optimiser, model_state_dict=weights, optim_state_dict=state)


def read_weights(checkpoint: Path, module: torch.nn.Module) -> None:
    """Fill a whole module from a checkpoint's shards, in this process alone."""
    weights = module.state_dict()
    _load({"model": weights}, checkpoint, alone=True)
    module.load_state_dict(weights)


def spread_optimiser(file: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """The optimiser's state that one process wrote for whole parameters, cut into this rank's shards."""
    state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    if not state["state"]:
        return  # no step was taken yet
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    named: dict[str, Any] = {
        "state": {names[i]: entries for i, entries in state["state"].items()},
        "param_groups": [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]],
    }
    set_optimizer_state_dict(module, optimiser, named, options=StateDictOptions(full_state_dict=True))


def _state_of(module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and optimiser state, by names. To learn what an optimiser without state will have, torch takes a step with
    gradients of zero; it must not count, neither in what is saved nor in the run that goes on."""
    untouched = not optimiser.state
    weights, state = get_state_dict(module, optimiser)
    for entries in optimiser.state.values() if untouched else ():
        entries["step"].zero_()
    return weights, cast(dict[str, Any], state)


def _load(state: dict[str, Any], checkpoint: Path, alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be
        load(state, checkpoint_id=checkpoint / SHARDS, no_dist=alone)


def _first_cause(err: CheckpointException) -> str:
    rank, (cause, _) = next(iter(err.failures.items()))
    return f"rank {rank}: {cause}"
