"""What the ranks of a test do with an adapter: the trainer's work of `ranks_cases`, and the merged weights."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.utils import logging

from rethink.distributed import connect, shutdown
from rethink.models import lora
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Update
from rethink.settings import Lora, Training
from rethink.training.fsdp.build import build
from rethink.training.trainer import Trainer
from support import ranks_cases as cases
from support.ranks_start import command_line


@dataclass(frozen=True)
class Job:
    """A model, how its base is kept, which of its layers have adapters, and how it is trained."""

    folder: Path
    early: Path
    dtype: str = "float32"
    targets: str | tuple[str, ...] = "all-linear"
    how: dict[str, Any] = field(default_factory=dict)

    def load(self) -> LanguageModel:
        """With an adapter whose B is not 0, so that it counts."""
        base = load_model(str(self.folder), dtype=self.dtype)
        adapted = lora.add_adapter(base, Lora(3, 7.0, self.targets), 5)
        draws = torch.Generator().manual_seed(7)
        for name, p in adapted.module.named_parameters():
            if ".lora_B." in name:
                p.data.copy_(0.1 * torch.randn(p.shape, generator=draws))
        return adapted

    def settings(self, **more: Any) -> Training:
        return Training(micro_batch_tokens=20, **self.how, **more)


UPDATES = ("kl to the initial model", "all together", "one reply")


def work(make: cases.Make, job: Job, folder: Path, other: Path) -> cases.Found:
    """What a trainer makes of some updates: monitors, gradients, weights.

    A checkpoint without any optimizer step in it is written to `folder`, and that in `other` is read.
    """
    module = load_model(str(job.folder)).module
    every = cases.parts(module)
    still = make(lr=0.0, weight_decay=0.0, max_grad_norm=1e9)
    found: cases.Found = {"log-probs": still.log_probs(every["all together"][0].samples)}
    parameters = list(still.model.module.named_parameters())
    found["left whole"] = [name for name, p in parameters if not isinstance(p, DTensor)]
    for name in UPDATES:
        still.version = 0
        numbers = still.apply(Update("test", every[name]))
        found[name] = {"numbers": numbers, "gradient": cases.gradients(still)}
    trainer = make(**cases.MOVING)
    folder.mkdir(exist_ok=True)
    trainer.engine.write(folder, trainer.optimizer)
    for _ in range(2):
        numbers = trainer.apply(Update("test", every["clip"], n_steps=2, on_policy=False))
    found["several"] = {"numbers": numbers, "weights": cases.weights(trainer)}
    found["held"] = _held(trainer)
    return {**found, "read": cases.after_reading(make, module, other)}


def _held(trainer: Trainer) -> tuple[int, int]:
    """Bytes of weights, and of the optimizer's moments, on all ranks together."""
    state = trainer.optimizer.state.values()
    moments = [x for entries in state for key, x in entries.items() if key != "step"]
    mine = [sum(map(_local_bytes, tensors)) for tensors in (trainer.model.module.parameters(), moments)]
    weights, optimizer = map(sum, zip(*trainer.engine.ranks.gather(mine), strict=True))
    return weights, optimizer


def _local_bytes(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.itemsize


def plain_work(job: Job) -> cases.Found:
    """`work` in one process."""
    model = job.load()
    start = {name: p.detach() for name, p in model.module.named_parameters()}
    trained = {name for name, p in model.module.named_parameters() if p.requires_grad}
    found = work(_plain(job), job, job.early, job.early)
    return {
        **found,
        "merged": list(lora.named_weights(model)),
        "start": start,
        "trained": trained,
        "config": model.config,
    }


def plain_reading(job: Job, early: Path) -> dict[str, Tensor]:
    """`ranks_cases.after_reading` in one process."""
    return cases.after_reading(_plain(job), load_model(str(job.folder)).module, early)


def _plain(job: Job) -> cases.Make:
    return lambda **more: Trainer(job.load(), job.settings(**more), 5, lambda: cases.initial(job.folder))


def of_ranks(job: Job, name: str) -> Path:
    """Where the ranks write their checkpoint before the first step."""
    return job.early.with_name(f"{name} of three")


def sharded_work(jobs: dict[str, Job], out: Path) -> None:
    """`plain_work` by all ranks together; rank 0 writes what it found."""
    logging.disable_progress_bar()
    ranks = connect(300)
    found = {}
    for name, job in jobs.items():

        def make(job: Job = job, **more: Any) -> Trainer:
            how = job.settings(**more)
            engine, _ = build(ranks, job.load, how, torch.device("cpu"))
            return Trainer(engine.model, how, 5, lambda: cases.initial(job.folder), engine)

        found[name] = work(make, job, of_ranks(job, name), job.early)
        engine, meta_model = build(ranks, job.load, job.settings(), torch.device("cpu"))
        found[name] |= {"merged": list(engine.named_weights()), "shapes": engine.shapes()}
        found[name] |= {
            "meta_model": [(n, tuple(p.shape), str(p.device)) for n, p in meta_model.module.named_parameters()]
        }
    if ranks.is_rank0:
        torch.save(found, out)
    shutdown()


def full_disk(*arguments: object) -> None:
    """`rethink ...`, but rank 0 cannot write an adapter."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if os.environ["RANK"] == "0":
        vars(lora)["save_file"] = full
    command_line(*arguments)
