"""What the ranks of a test do with the 8-bit optimizer: train, write a checkpoint, and read those of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.utils import logging

from rethink.distributed import connect, shutdown
from rethink.models.load import load_model
from rethink.objectives import Imitate, Update
from rethink.settings import Training
from rethink.training import checkpoint
from rethink.training.checkpoint import Counters
from rethink.training.fsdp.build import build
from rethink.training.optimizer import dequantize, is_quantized
from rethink.training.trainer import Trainer
from support.samples import no_initial, reply_of

Held = dict[str, Tensor]
Make = Callable[[Path], Trainer]
"""A trainer over the model in a folder."""

SETTINGS = Training(lr=0.01, schedule="linear", optimizer="adamw8bit", micro_batch_tokens=20)
N = 3
"""Updates before a checkpoint, and after it."""


def train(trainer: Trainer) -> None:
    """`N` updates, each another one."""
    for _ in range(N):
        replies = [reply_of(5 + trainer.version % 3 + k, group=g) for k, g in enumerate("abc")]
        trainer.apply(Update("imitate", (Imitate(tuple(replies), (1.0, 0.5, 1.0)),), on_policy=False))


def held(trainer: Trainer) -> Held:
    """Weights and averages, whole and as they are calculated with, and the number of steps; all ranks must ask."""
    found = {}
    for name, p in trainer.model.module.named_parameters():
        found[name] = _whole(p)
        for key, value in trainer.optimizer.state[p].items():
            found[f"{name} {key}"] = _whole(value)
    return found


def n_bits(trainer: Trainer) -> dict[str, int]:
    """8 or 32: what this rank's share of an average has, by the parameter's name."""
    averages = {n: trainer.optimizer.state[p]["exp_avg"] for n, p in trainer.model.module.named_parameters()}
    return {name: 8 if is_quantized(_local(average)) else 32 for name, average in averages.items()}


def _whole(tensor: Any) -> Tensor:
    if isinstance(tensor, DTensor):
        local = dequantize(tensor.to_local())
        how: Any = {"shape": tensor.shape, "stride": tensor.stride()}
        tensor = DTensor.from_local(local, tensor.device_mesh, tensor.placements, **how).full_tensor()
    found: Tensor = dequantize(tensor).detach().clone()
    return found


def _local(tensor: Any) -> Any:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def begin(make: Make, model: Path, checkpoints: Path) -> dict[str, Any]:
    """Train and write a checkpoint on the way; and once more from that."""
    first = make(model)
    train(first)
    saved = checkpoint.save(checkpoints, first, Counters(N, N, first.n_optimizer_steps, 0), 1)
    found: dict[str, Any] = {"bits": first.engine.ranks.gather(n_bits(first)), "written": held(first)}
    train(first)
    return {**found, "trained": held(first), "again": go_on(make, saved)}


def go_on(make: Make, saved: Path) -> dict[str, Held]:
    """What was read from a checkpoint, and what became of it."""
    trainer = make(saved)
    checkpoint.load(saved, trainer)
    found = {"read": held(trainer)}
    train(trainer)
    return {**found, "trained": held(trainer)}


def alone(folder: Path) -> Trainer:
    """One process."""
    return Trainer(load_model(str(folder)), SETTINGS, 8, no_initial)


def shared(model: Path, checkpoints: Path, others: dict[str, Path], out: Path) -> None:
    """`begin` by all ranks together, and `go_on` from checkpoints of others; rank 0 writes what came of it."""
    logging.disable_progress_bar()
    ranks = connect(200)

    def make(folder: Path) -> Trainer:
        engine, _ = build(ranks, lambda: load_model(str(folder)), SETTINGS, torch.device("cpu"))
        return Trainer(engine.model, SETTINGS, 8, no_initial, engine)

    found = begin(make, model, checkpoints)
    found |= {name: go_on(make, other) for name, other in others.items()}
    if ranks.is_rank0:
        torch.save(found, out)
    shutdown()
