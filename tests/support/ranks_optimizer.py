"""Train with the 8-bit optimizer on any number of ranks, write a checkpoint, and resume others' checkpoints."""

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
from rethink.training.fsdp.shard_model import build
from rethink.training.optimizer import dequantize, is_quantized
from rethink.training.trainer import Trainer
from support.samples import no_initial, reply_of

State = dict[str, Tensor]
MakeTrainer = Callable[[Path], Trainer]
"""Return a trainer over the model in a folder."""

SETTINGS = Training(lr=0.01, schedule="linear", optimizer="adamw8bit", micro_batch_tokens=20)
N = 3
"""Updates before a checkpoint, and after it."""


def train(trainer: Trainer) -> None:
    """Apply `N` different updates."""
    for _ in range(N):
        replies = [reply_of(5 + trainer.version % 3 + k, group=g) for k, g in enumerate("abc")]
        trainer.apply(Update("imitate", (Imitate(tuple(replies), (1.0, 0.5, 1.0)),), on_policy=False))


def full_state(trainer: Trainer) -> State:
    """Return weights, dequantized averages and the number of steps, gathered from all ranks."""
    found = {}
    for name, p in trainer.model.module.named_parameters():
        found[name] = _full(p)
        for key, value in trainer.optimizer.state[p].items():
            found[f"{name} {key}"] = _full(value)
    return found


def n_bits(trainer: Trainer) -> dict[str, int]:
    """Return 8 or 32, the bits of this rank's share of the average, by the parameter's name."""
    averages = {n: trainer.optimizer.state[p]["exp_avg"] for n, p in trainer.model.module.named_parameters()}
    return {name: 8 if is_quantized(_local(average)) else 32 for name, average in averages.items()}


def _full(tensor: Any) -> Tensor:
    if isinstance(tensor, DTensor):
        local = dequantize(tensor.to_local())
        how: Any = {"shape": tensor.shape, "stride": tensor.stride()}
        tensor = DTensor.from_local(local, tensor.device_mesh, tensor.placements, **how).full_tensor()
    found: Tensor = dequantize(tensor).detach().clone()
    return found


def _local(tensor: Any) -> Any:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def train_and_resume(make: MakeTrainer, model: Path, checkpoints: Path) -> dict[str, Any]:
    """Train, write a checkpoint half way, and resume it."""
    first = make(model)
    train(first)
    saved = checkpoint.save(checkpoints, first, Counters(N, N, first.n_optimizer_steps, 0), 1)
    found: dict[str, Any] = {"bits": first.engine.ranks.gather(n_bits(first)), "written": full_state(first)}
    train(first)
    found["trained"] = full_state(first)
    resumed = read(make, saved)
    found["read"] = full_state(resumed)
    train(resumed)
    return {**found, "resumed": full_state(resumed)}


def read(make: MakeTrainer, saved: Path) -> Trainer:
    """Return a trainer with the state in a checkpoint."""
    trainer = make(saved)
    checkpoint.load(saved, trainer)
    return trainer


def make_trainer(folder: Path) -> Trainer:
    """Return a trainer in one process."""
    return Trainer(load_model(str(folder)), SETTINGS, 8, no_initial)


def on_ranks(model: Path, checkpoints: Path, others: dict[str, Path], out: Path) -> None:
    """Run `train_and_resume` on all ranks, resume the other checkpoints, and let rank 0 write the results."""
    logging.disable_progress_bar()
    ranks = connect(200)

    def make(folder: Path) -> Trainer:
        engine, _ = build(ranks, lambda: load_model(str(folder)), SETTINGS, torch.device("cpu"))
        return Trainer(engine.model, SETTINGS, 8, no_initial, engine)

    found = train_and_resume(make, model, checkpoints)
    found |= {name: full_state(read(make, other)) for name, other in others.items()}
    if ranks.is_rank0:
        torch.save(found, out)
    shutdown()
