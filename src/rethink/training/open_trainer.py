"""Build the trained model, its policy and the trainer from a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rethink.build import Warn, local_policy, open_model
from rethink.distributed import Ranks, check_same_package
from rethink.models import bundled, lora
from rethink.models.forward.embedding import tower_names
from rethink.models.gguf.folder import model_folder
from rethink.models.gguf.locate import find, is_gguf
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.open_vision import train_tower
from rethink.models.sharded_weights import is_sharded
from rethink.policies.base import TrainedPolicy
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.recipe import Recipe
from rethink.training import optimizer
from rethink.training.trainer import Trainer

if TYPE_CHECKING:
    from rethink.policies.vllm.adapter import AdapterSource
    from rethink.policies.vllm.policy import VllmPolicy
    from rethink.policies.vllm.transfer import WeightSource
    from rethink.training.fsdp.engine import FSDPEngine


def why_unsupported(recipe: Recipe, n_ranks: int) -> str:
    """Return which settings exclude training by this many processes, one per GPU, and why; "" if none does."""
    if optimizer.is_unsupported(recipe.training.optimizer, recipe.lora.rank, n_ranks):
        return (
            "several ranks train adapters with AdamW only: leave out training.optimizer=adamw8bit (it would save "
            "little) or train in one process"
        )
    for lacks, needed, why in (
        (n_ranks > 1, "a single process", "several ranks do not train the tower"),
        (recipe.lora.rank > 0, "lora.rank = 0", "adapters train the language model alone"),
        (recipe.sampler.engine == "vllm", 'sampler.engine = "local"', "vLLM keeps the tower that it got first"),
        (recipe.async_level > 0, "async_level = 0", "the tower would change during sampling"),
    ):
        if lacks and recipe.training.vision != "frozen":
            return f'training.vision = "{recipe.training.vision}" needs {needed}, because {why}; or set it to "frozen"'
    if n_ranks > recipe.problems_per_batch:
        return (
            f"{n_ranks} ranks share the problems of a batch, but problems_per_batch is only {recipe.problems_per_batch}: "
            "start fewer ranks or raise problems_per_batch"
        )
    return ""


def open_trainable_model(recipe: Recipe, checkpoint: Path | None = None) -> LanguageModel:
    """Return the model of the recipe, or of a checkpoint, ready for training: with an adapter if the recipe has one."""
    model = open_model(recipe.model, recipe.seed, str(checkpoint) if checkpoint else None)
    train_tower(model.module, recipe.training.vision)
    return lora.prepare_for_training(model, recipe.lora, recipe.seed, resumed=checkpoint is not None)


def open_policy_and_trainer(
    recipe: Recipe, checkpoint: Path | None, ranks: Ranks, warn: Warn
) -> tuple[TrainedPolicy, Trainer]:
    """Return policy and trainer, in this process or on all ranks, with weights of the checkpoint or the start model."""

    def initial() -> LanguageModel:
        return open_model(recipe.model, recipe.seed)

    if ranks.size > 1:
        return _open_sharded(recipe, checkpoint, ranks, initial, warn)
    model = open_trainable_model(recipe, checkpoint)
    trainer = Trainer(model, recipe.training, recipe.updates, lambda: model.base or initial())
    if recipe.sampler.engine == "vllm":
        policy = _vllm(recipe, model, None if model.base else checkpoint, model.device, warn)
        _warn_if_merged(policy, warn)
        return policy, trainer
    return local_policy(recipe, model, recipe.sampling), trainer


def _open_sharded(
    recipe: Recipe, checkpoint: Path | None, ranks: Ranks, initial: Callable[[], LanguageModel], warn: Warn
) -> tuple[TrainedPolicy, Trainer]:
    """Shard the model over the ranks. Each rank samples from a full copy of the weights or its own vLLM server. Servers in
    `sampler.urls` are shared: only rank 0 sends requests to them."""
    from rethink.training.fsdp.shard_model import build, empty_replica, load_weights

    if recipe.lora.rank:
        check_same_package(ranks, "peft", lora.peft_version)
    if recipe.training.optimizer == "adamw8bit":
        check_same_package(ranks, "torchao", optimizer.torchao_version)
    on_cpu = replace(recipe, model=replace(recipe.model, device="cpu"))
    device = _device(recipe)
    engine, meta_model = build(
        ranks,
        lambda: open_trainable_model(on_cpu, checkpoint),
        recipe.training,
        device,
        lambda: open_model(on_cpu.model, recipe.seed),
    )
    trainer = Trainer(engine.model, recipe.training, recipe.updates, initial, engine)
    if recipe.sampler.engine == "local":
        dtype = pick_dtype(recipe.sampler.dtype, meta_model, device)
        copy = empty_replica(meta_model, device, dtype, engine.model)
        policy = local_policy(recipe, copy, recipe.sampling)
        return DataParallelPolicy(policy, ranks, lambda: load_weights(copy, engine.named_weights())), trainer
    start = None if recipe.lora.rank else checkpoint
    return _vllm_on_ranks(recipe, meta_model, start, device, engine, warn), trainer


def _vllm_on_ranks(
    recipe: Recipe, model: LanguageModel, checkpoint: Path | None, device: torch.device, engine: FSDPEngine, warn: Warn
) -> DataParallelPolicy:
    """Return a policy over this rank's vLLM server, or over the shared servers. All ranks gather what is sent, so all of
    them send the adapter, or all send merged weights."""
    from rethink.policies.vllm.adapter import AdapterSource
    from rethink.policies.vllm.transfer import WeightSource

    weights = WeightSource(engine.shapes, engine.named_weights, tower_names(model.module))
    adapter = None
    if recipe.lora.rank:
        parameters = lora.adapter_parameters(engine.model.module)
        shapes = [(name, tuple(p.shape)) for name, p in parameters.items()]
        adapter = AdapterSource(engine.model.module.peft_config[lora.NAME], lambda: shapes, engine.named_adapter)
    ranks, shared = engine.ranks, bool(recipe.sampler.urls)
    opened: list[VllmPolicy] = []

    def open_here() -> bool:
        opened.append(_vllm(recipe, model, checkpoint, device, warn, weights, adapter))
        return opened[0].fleet.adapter is not None

    sends_adapter = ranks.on_rank0(open_here) if shared else all(ranks.on_all_ranks(open_here))
    if opened:
        policy = opened[0]
        if not sends_adapter and policy.fleet.adapter is not None:
            policy.fleet.adapter, policy.fleet.merged_because = None, "the vLLM of another rank cannot use it"
        if ranks.is_rank0:
            _warn_if_merged(policy, warn)
        return DataParallelPolicy(policy, ranks, n_sampling=1 if shared else ranks.size)
    placeholder = local_policy(recipe, model, recipe.sampling)  # without weights: it never samples

    def gather() -> None:
        for _ in engine.named_adapter() if sends_adapter else engine.named_weights():  # gathering needs every rank
            pass

    return DataParallelPolicy(placeholder, ranks, gather, n_sampling=1)


def _warn_if_merged(policy: VllmPolicy, warn: Warn) -> None:
    """Say why vLLM gets all weights of a run with an adapter, which takes longer than sending the adapter."""
    if policy.fleet.merged_because:
        warn(
            "vLLM gets all weights after each update, with the adapter merged (sampler.transfer), because "
            f"{policy.fleet.merged_because}"
        )


def _vllm(
    recipe: Recipe,
    model: LanguageModel,
    checkpoint: Path | None,
    device: torch.device,
    warn: Warn,
    weights: WeightSource | None = None,
    adapter: AdapterSource | None = None,
) -> VllmPolicy:
    """Return a policy that samples with vLLM, which loads the model from the trainer's path."""
    from rethink.policies.vllm.start import open_vllm

    evaluation = recipe.evaluation
    return open_vllm(
        recipe.sampler,
        model,
        [recipe.sampling, evaluation.sampling, evaluation.refine_sampling or evaluation.sampling],
        path=str(checkpoint) if checkpoint else _start_path(recipe),
        device=device,
        random=(recipe.model.random and checkpoint is None) or (checkpoint is not None and is_sharded(checkpoint)),
        dtype=pick_dtype(recipe.sampler.dtype, model, device),
        weights=weights,
        adapter=adapter,
        warn=warn,
    )


def _start_path(recipe: Recipe) -> str:
    """Return the folder or hub name of the start model, for vLLM."""
    path = bundled.resolve(recipe.model.path)
    return str(model_folder(find(path))) if is_gguf(path) else path


def _device(recipe: Recipe) -> torch.device:
    if recipe.model.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
