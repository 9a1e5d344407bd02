"""The same updates on a trainer in one process and on one over several ranks, with and without an adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from rethink.objectives import (
    AdvantageAwareShaping,
    Clip,
    Distill,
    Divergence,
    Imitate,
    Part,
    PolicyGradient,
    Prefer,
    Update,
)
from rethink.settings import Lora, Training
from rethink.training.fsdp.engine import FSDPEngine
from rethink.training.fsdp.shard_model import build
from rethink.training.trainer import Trainer
from rethink.types import Sample
from support.samples import END, as_sampled, make_sample, mixed_part, reply_of, some_ids

Found = dict[str, Any]
MakeTrainer = Callable[..., Trainer]
"""Return a trainer over the model, with these settings of the optimizer."""

MOVING: dict[str, Any] = {
    **{"lr": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5, "warmup_updates": 1, "schedule": "linear"}
}

LORA_UPDATES = (
    *("kl to the initial model", "entropy and kl in the advantage", "all together", "one reply", "distill"),
    *("distill from the reference", "distill with others", "one reply of each"),
)
UPDATES = (*LORA_UPDATES, "clip", "means of sequences", "imitate", "prefer", "shaped", "recomputed")


@dataclass(frozen=True)
class Job:
    """A model in a folder and how it is trained."""

    model: Path
    checkpoint: Path
    targets: str | tuple[str, ...] | None = None
    dtype: str = "float32"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint_of_ranks(self) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name} of ranks")

    @property
    def updates(self) -> tuple[str, ...]:
        return UPDATES if self.targets is None else LORA_UPDATES

    def load(self) -> LanguageModel:
        """Return the model; an adapter has a B that is not 0, so it makes a difference."""
        base = load_model(str(self.model), dtype=self.dtype)
        if self.targets is None:
            return base
        adapted = lora.add_adapter(base, Lora(3, 7.0, self.targets), 5)
        draws = torch.Generator().manual_seed(7)
        for name, p in adapted.module.named_parameters():
            if ".lora_B." in name:
                p.data.copy_(0.1 * torch.randn(p.shape, generator=draws))
        return adapted

    def initial(self) -> LanguageModel:
        """Return a start model that differs from the trained one: with equal weights KL and preferences are constants.
        That of an adapter is its base."""
        model = load_model(str(self.model), dtype=self.dtype)
        if self.targets is not None:
            return model
        with torch.no_grad():
            for p in model.module.parameters():
                p.mul_(0.9)
        return model

    def training(self, **more: Any) -> Training:
        return Training(micro_batch_tokens=20, **self.settings, **more)


def make_parts(module: Any) -> dict[str, tuple[Part, ...]]:
    """Return every kind of part, alone and together."""
    mixed = mixed_part(module)
    # With a wide clip: otherwise rounding of the KL decides on which side a token is clipped.
    terms = replace(mixed, surrogate=Clip(0.9, 9.0), kl_coef=0.3, kl_estimator="k1", entropy_coef=0.2)
    pairs = [
        (as_sampled(module, reply_of(5, group=g, prompt_ids=(2, k, 3))), reply_of(3, group=g, prompt_ids=(2, k, 3)))
        for k, g in enumerate("cdefg", 31)
    ]
    prefer = Prefer(tuple(c for c, _ in pairs), tuple(r for _, r in pairs), beta=0.5)
    imitate = Imitate(mixed.samples, (1.0, 0.5, 1.0, 1.0, 1.0, 0.25), coefficient=0.5)
    shaped = (_forced(module), *mixed.samples[:2])
    shown = tuple(replace(s, prompt_ids=(*s.prompt_ids, 50 + k)) for k, s in enumerate(mixed.samples))
    distill = Distill(mixed.samples, shown)
    from_reference = replace(distill, teacher="reference", divergence=Divergence("reverse", 5))
    one = PolicyGradient(mixed.samples[:1], (1.0,))
    # Losses that run the model once or twice, or the reference before or inside of it, and too few samples for all ranks.
    of_each = (
        one,
        replace(from_reference.select([1]), coefficient=0.5),
        replace(one, kl_coef=0.3),
        distill.select([2]),
    )
    return {
        "clip": (mixed,),
        "kl to the initial model": (replace(mixed, kl_coef=0.3),),
        "entropy and kl in the advantage": (terms,),
        "means of sequences": (replace(mixed, loss_aggregation="sequence"),),
        "imitate": (imitate,),
        "prefer": (prefer,),
        "shaped": (PolicyGradient(shaped, (1.0, 0.5, -1.0), AdvantageAwareShaping()),),
        "all together": (mixed, imitate, prefer),
        "one reply": (one,),
        "one reply of each": of_each,
        "distill": (distill,),
        "distill from the reference": (from_reference,),
        "distill with others": (mixed, distill, one, imitate),
        "zero advantages": (replace(mixed, advantages=(0.0,) * 6),),
    }


def _forced(module: Any) -> Sample:
    """Return a reply with two forced tokens, which are trained."""
    ids = (*some_ids(4, "guided"), END)
    sample = as_sampled(module, make_sample(ids, group="g", prompt_ids=(2, 50, 3)))
    forced = (False, False, True, True, False)
    log_probs = tuple(float("nan") if f else lp for f, lp in zip(forced, sample.log_probs, strict=True))
    return replace(sample, log_probs=log_probs, forced=forced)


def apply_updates(job: Job, make: MakeTrainer, written: Path, read: Path) -> Found:
    """Apply all kinds of updates; return metrics, gradients and weights."""
    parts = make_parts(load_model(str(job.model)).module)
    still = make(lr=0.0, weight_decay=0.0, max_grad_norm=1e9)
    found: Found = {"log-probs": still.log_probs(parts["all together"][0].samples)}
    parameters = still.model.module.named_parameters()
    found["not sharded"] = [name for name, p in parameters if not isinstance(p, DTensor)]
    for name in job.updates:
        if name == "recomputed":
            still.settings = replace(still.settings, old_log_probs="recomputed")
        still.version = 0
        metrics = still.apply(Update("test", parts["clip" if name == "recomputed" else name]))
        found[name] = {"metrics": metrics, "gradient": gradients(still)}
    written.mkdir(exist_ok=True)
    trainer = make(**MOVING)
    trainer.engine.write(written, trainer.optimizer)
    found["steps"] = []
    for name in ("all together", "zero advantages", "clip"):
        metrics = trainer.apply(Update("test", parts[name], n_steps=2, on_policy=False))
        found["steps"].append({"metrics": metrics, "weights": weights(trainer)})
    found["bytes"] = _allocated_bytes(trainer)
    found["reference"] = moved_reference(make, parts["kl to the initial model"])
    found["after reading"] = step_after_reading(job, make, read)
    return found


def moved_reference(make: MakeTrainer, parts: tuple[Part, ...]) -> dict[str, Tensor]:
    """Return the weights of a reference that has moved half of the way to the trained weights, twice."""
    trainer = make(**MOVING, reference_every=1, reference_mixup=0.5)
    for _ in range(2):
        trainer.apply(Update("test", parts, on_policy=False))
    return {name: p.detach().clone() for name, p in trainer.reference.model.module.named_parameters()}


def step_after_reading(job: Job, make: MakeTrainer, checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights after reading a checkpoint and one optimizer step."""
    trainer = make(**MOVING)
    trainer.engine.read(checkpoint, trainer.optimizer)
    trainer.apply(Update("test", make_parts(load_model(str(job.model)).module)["clip"]))
    return weights(trainer)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: _full(p.grad) for name, p in trainer.model.module.named_parameters() if p.grad is not None}


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: _full(p.detach()) for name, p in trainer.model.module.named_parameters()}


def _full(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.clone()


def _allocated_bytes(trainer: Trainer) -> tuple[int, int]:
    """Return the bytes of weights and of the optimizer's moments, summed over all ranks."""
    state = trainer.optimizer.state.values()
    moments = [x for entries in state for key, x in entries.items() if key != "step"]
    own = [sum(map(_local_bytes, tensors)) for tensors in (trainer.model.module.parameters(), moments)]
    n_weights, n_optimizer = map(sum, zip(*trainer.engine.ranks.gather(own), strict=True))
    return n_weights, n_optimizer


def _start_bytes(engine: FSDPEngine) -> int:
    """Return the bytes that the start model takes on all ranks together, besides the model in training."""
    start = engine.start_model()
    if start.scorer is engine.scorer:
        return 0
    return sum(engine.ranks.gather(sum(map(_local_bytes, start.scorer.module.parameters()))))


def _local_bytes(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.itemsize


def apply_in_one_process(job: Job) -> Found:
    """Return `apply_updates` in one process, and facts about the model."""
    model = job.load()
    start = {name: p.detach() for name, p in model.module.named_parameters()}
    return {
        **apply_updates(job, _in_one_process(job), job.checkpoint, job.checkpoint),
        "merged": list(lora.named_weights(model)),
        "start": start,
        "trained": {name for name, p in model.module.named_parameters() if p.requires_grad},
        "config": model.config,
    }


def read_in_one_process(job: Job) -> dict[str, Tensor]:
    """Return `step_after_reading` in one process, from the checkpoint that ranks wrote."""
    return step_after_reading(job, _in_one_process(job), job.checkpoint_of_ranks)


def _in_one_process(job: Job) -> MakeTrainer:
    return lambda **more: Trainer(job.load(), job.training(**more), 5, job.initial)


def apply_on_ranks(jobs: dict[str, Job], out: Path) -> None:
    """Run `apply_updates` on all ranks together; rank 0 writes the results."""
    logging.disable_progress_bar()
    ranks = connect(300)
    found = {}
    for name, job in jobs.items():

        def make(job: Job = job, **more: Any) -> Trainer:
            settings = job.training(**more)
            engine, _ = build(ranks, job.load, settings, torch.device("cpu"), job.initial)
            return Trainer(engine.model, settings, 5, job.initial, engine)

        found[name] = apply_updates(job, make, job.checkpoint_of_ranks, job.checkpoint)
        engine, meta_model = build(ranks, job.load, job.training(), torch.device("cpu"), job.initial)
        found[name]["bytes of start"] = _start_bytes(engine)
        found[name] |= {"merged": list(engine.named_weights()), "shapes": engine.shapes()}
        parameters = meta_model.module.named_parameters()
        found[name]["meta_model"] = [(n, tuple(p.shape), str(p.device)) for n, p in parameters]
    if ranks.is_rank0:
        torch.save(found, out)
    shutdown()
