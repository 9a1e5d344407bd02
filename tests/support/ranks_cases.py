"""What the ranks of a test do: verifiers and methods that misbehave on one of them, and work for the trainer."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig
from transformers.utils import logging

from rethink import version
from rethink.distributed import connect, shutdown
from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import AdvantageAwareShaping, Imitate, Part, PolicyGradient, Prefer, Update
from rethink.seeds import stable_hash
from rethink.settings import Training
from rethink.training.fsdp.build import build
from rethink.training.trainer import Trainer
from rethink.types import Problem, Sample, Verdict
from support.ranks_start import command_line
from support.samples import END, as_sampled, factors, make_sample, mixed_part, reply_of, some_ids

FAULT, RUN = "RANKS_TEST_FAULT", "RANKS_TEST_RUN"
"""Environment variables: how rank 1 fails, "dies" or "sleeps", and in which run's folder."""


# ------------------------------------------------------------------------------------------------------- verifiers


def coin(reply: str, gold: str) -> Verdict:
    """Right or wrong by a hash of the reply: even a random model is right half of the time, so that it learns.

    With `FAULT` rank 1 fails here, once in a run's folder, as soon as there is a checkpoint; but not when the verifier is
    tried with a gold answer, before ranks are connected.
    """
    if os.environ.get("RANK") == "1" and FAULT in os.environ and reply != gold:
        run = Path(os.environ[RUN])
        mark = run / "has failed"
        if not mark.exists() and any(run.glob("checkpoints/0*")):
            mark.touch()
            FAULTS[os.environ[FAULT]]()
    return Verdict(stable_hash(reply) % 2 == 1)


coin.in_process = True  # type: ignore[attr-defined]  # it is the rank that is to fail


FAULTS: dict[str, Callable[[], None]] = {
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleeps": lambda: time.sleep(600),
}


# --------------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Differs(GRPO):
    """It weighs samples a little otherwise on rank 1."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        for update in super().updates(actors, problems):
            (part,) = update.parts
            assert isinstance(part, PolicyGradient)
            advantages = tuple(w + 1e-9 * (os.environ.get("RANK") == "1") for w in factors(part))
            yield replace(update, parts=(replace(part, advantages=advantages),))


# --------------------------------------------------------------------------------------- processes with a fault


def other_version(rank: int, *arguments: object) -> None:
    """`rethink ...`, of another version on that rank."""
    if os.environ["RANK"] == str(rank):
        version.__version__ = "0.0.0"
    command_line(*arguments)


def full_disk(what: str, rank: int, *arguments: object) -> None:
    """`rethink ...`, but one rank cannot write its "shards", or the "config"."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if os.environ["RANK"] == str(rank):
        owner, name = {"shards": (FileSystemWriter, "write_data"), "config": (PreTrainedConfig, "save_pretrained")}[
            what
        ]
        setattr(owner, name, full)
    command_line(*arguments)


# --------------------------------------------------------------------------------------------- work for the trainer

Found = dict[str, Any]
Make = Callable[..., Trainer]
"""A trainer over the model, by settings of the optimizer."""

MOVING: dict[str, Any] = {
    **{"lr": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5, "warmup_updates": 1, "schedule": "linear"}
}


def parts(module: Any) -> dict[str, tuple[Part, ...]]:
    """Every kind of part, alone and together."""
    mixed = mixed_part(module)
    pairs = [
        (as_sampled(module, reply_of(5, group=g, prompt_ids=(2, k, 3))), reply_of(3, group=g, prompt_ids=(2, k, 3)))
        for k, g in enumerate("cdefg", 31)
    ]
    prefer = Prefer(tuple(c for c, _ in pairs), tuple(r for _, r in pairs), beta=0.5)
    imitate = Imitate(mixed.samples, (1.0, 0.5, 1.0, 1.0, 1.0, 0.25), coefficient=0.5)
    return {
        "clip": (mixed,),
        "kl to the initial model": (replace(mixed, kl_coef=0.3),),
        "means of sequences": (replace(mixed, loss_aggregation="sequence"),),
        "imitate": (imitate,),
        "prefer": (prefer,),
        "guided": (PolicyGradient((_guided(module), *mixed.samples[:2]), (1.0, 0.5, -1.0), AdvantageAwareShaping()),),
        "all together": (mixed, imitate, prefer),
        "one reply": (PolicyGradient(mixed.samples[:1], (1.0,)),),
        "silent": (replace(mixed, advantages=(0.0,) * 6),),
    }


def _guided(module: Any) -> Sample:
    """A reply of which two tokens were forced, and count."""
    ids = (*some_ids(4, "guided"), END)
    sample = as_sampled(module, make_sample(ids, group="g", prompt_ids=(2, 50, 3)))
    forced = (False, False, True, True, False)
    log_probs = tuple(float("nan") if f else lp for f, lp in zip(forced, sample.log_probs, strict=True))
    return replace(sample, log_probs=log_probs, forced=forced)


def work(make: Make, module: Any, folder: Path, other: Path) -> Found:
    """What a trainer makes of all kinds of updates: monitors, gradients, weights. The samples were drawn from `module`.

    A checkpoint without any optimizer step in it is written to `folder`, and that in `other` is read.
    """
    every = parts(module)
    still = make(lr=0.0, weight_decay=0.0, max_grad_norm=1e9)
    found: Found = {"log-probs": still.log_probs(every["all together"][0].samples)}
    several = still.engine.ranks.size > 1
    parameters = still.model.module.named_parameters()
    found["left whole"] = [name for name, p in parameters if several and not isinstance(p, DTensor)]
    for name, some in every.items():
        found[name] = _looked_at(still, some)
    still.settings = replace(still.settings, old_log_probs="recomputed")
    found["recomputed"] = _looked_at(still, every["clip"])
    folder.mkdir(exist_ok=True)
    found["several"] = []
    trainer = make(**MOVING)
    trainer.engine.write(folder, trainer.optimizer)
    for name in ("all together", "silent", "clip"):
        numbers = trainer.apply(Update("test", every[name], n_steps=2, on_policy=False))
        found["several"].append({"numbers": numbers, "weights": weights(trainer)})
    found["read"] = after_reading(make, module, other)
    return found


def after_reading(make: Make, module: Any, early: Path) -> dict[str, Tensor]:
    """Weights after the first optimizer step, which comes after a checkpoint was read."""
    trainer = make(**MOVING)
    trainer.engine.read(early, trainer.optimizer)
    trainer.apply(Update("test", parts(module)["clip"]))
    return weights(trainer)


def _looked_at(trainer: Trainer, some: tuple[Part, ...]) -> Found:
    """Monitors and gradient of one optimizer step that, at a learning rate of 0, goes nowhere."""
    trainer.version = 0
    return {"numbers": trainer.apply(Update("test", some)), "gradient": gradients(trainer)}


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: _whole(p.grad) for name, p in trainer.model.module.named_parameters() if p.grad is not None}


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: _whole(p.detach()) for name, p in trainer.model.module.named_parameters()}


def _whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.clone()


def initial(folder: Path) -> LanguageModel:
    """A start model that is not the trained one: with equal weights KL and preferences would be constants."""
    model = load_model(str(folder))
    with torch.no_grad():
        for p in model.module.parameters():
            p.mul_(0.9)
    return model


def plain_work(folder: Path, early: Path, **settings: Any) -> Found:
    """`work` on the model in one process, its micro-batches as small as those of `sharded_work`."""
    return work(_plain(folder, settings), load_model(str(folder)).module, early, early)


def plain_reading(folder: Path, early: Path, **settings: Any) -> dict[str, Tensor]:
    """`after_reading` in one process."""
    return after_reading(_plain(folder, settings), load_model(str(folder)).module, early)


def _plain(folder: Path, settings: dict[str, Any]) -> Make:
    def make(**more: Any) -> Trainer:
        how = Training(micro_batch_tokens=20, **settings, **more)
        return Trainer(load_model(str(folder)), how, 5, lambda: initial(folder))

    return make


def sharded_work(jobs: dict[str, tuple[Path, Path, dict[str, Any]]], out: Path) -> None:
    """`work` by all ranks together on models, with checkpoints of one process and settings; rank 0 writes what it found."""
    logging.disable_progress_bar()
    ranks = connect(60)
    found = {}
    for name, (folder, early, settings) in jobs.items():

        def make(folder: Path = folder, settings: dict[str, Any] = settings, **more: Any) -> Trainer:
            how = Training(micro_batch_tokens=20, **settings, **more)
            engine, _ = build(ranks, lambda: load_model(str(folder)), how, torch.device("cpu"))
            return Trainer(engine.model, how, 5, lambda: initial(folder), engine)

        found[name] = work(make, load_model(str(folder)).module, early.with_name(f"{name} of three"), early)
    if ranks.is_rank0:
        torch.save(found, out)
    shutdown()
