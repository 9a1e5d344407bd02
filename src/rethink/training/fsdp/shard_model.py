"""Build a sharded model that no GPU ever holds as a whole: create it without memory, shard it, fill it from rank 0."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn import Module, Parameter

from rethink.distributed import Ranks, raise_as_lost_rank
from rethink.errors import UserError
from rethink.models import lora
from rethink.models.forward.embedding import put_tower, tower_parameters
from rethink.models.language_model import LanguageModel, pick_dtype, pick_head_dtype
from rethink.settings import Training
from rethink.training.fsdp.engine import FSDPEngine
from rethink.training.fsdp.scorer import Scorer, shard

RECORDERS = "transformers.utils.output_capturing"


class Sharded(NamedTuple):
    """A model over all ranks: its scorer, the model inside it, the same on the meta device, and its base's fingerprint."""

    scorer: Scorer
    model: LanguageModel
    meta_model: LanguageModel
    fingerprint: str | None


def build(
    ranks: Ranks,
    load: Callable[[], LanguageModel],
    settings: Training,
    device: torch.device,
    load_start: Callable[[], LanguageModel] | None = None,
) -> tuple[FSDPEngine, LanguageModel]:
    """Return the engine, and the same model on the meta device without its adapter, from which to make a sampler's replica.

    Only rank 0 calls `load`; only it holds the whole model, on the CPU, until the weights are distributed. So it is with
    `load_start`, which loads the frozen start model when a loss compares with it.
    """
    found = _shard_loaded(ranks, load, settings, device)

    def shard_start(in_float32: bool) -> Scorer:
        assert load_start is not None, "a loss compares with the start model"

        def load_frozen() -> LanguageModel:
            start = load_start()
            start.module.requires_grad_(False)
            if in_float32:
                start.module.float()
            return start

        once = replace(settings, gradient_checkpointing=False)
        scorer = _shard_loaded(ranks, load_frozen, once, device, found.scorer.dtype).scorer
        put_tower(scorer.module, tower_parameters(found.model.module))  # the tower is the same
        scorer.image_vectors = found.model.image_vectors
        return scorer

    engine = FSDPEngine(found.scorer, found.model, ranks, shard_start, found.fingerprint)
    return engine, found.meta_model.base or found.meta_model


def _shard_loaded(
    ranks: Ranks,
    load: Callable[[], LanguageModel],
    settings: Training,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Sharded:
    """Return the model that rank 0 loads, sharded over all ranks. Its products are in `dtype`, or by the settings."""
    loaded: list[LanguageModel] = []

    def load_meta_model() -> tuple[LanguageModel, str | None]:
        loaded.append(load())
        base = loaded[0].base
        return _to_meta(loaded[0]), None if base is None else lora.fingerprint(base.module)

    meta_model, fingerprint = ranks.on_rank0(load_meta_model)
    if meta_model.plain:
        raise UserError(
            f"{meta_model.path} cannot be trained in several processes: it runs with its own attention and cache "
            "(docs/models.md); train it in one process, without torchrun"
        )
    if meta_model.image_vectors is not None:
        _register_recorders(meta_model.module)
    model = _over(copy.deepcopy(meta_model.module), meta_model, base=None)
    dtype = dtype or pick_dtype(settings.autocast, meta_model, device)
    head_dtype = pick_head_dtype(model.head_dtype, dtype, device)
    scorer = Scorer(model.module, dtype, settings, head_dtype, model.image_vectors)
    with raise_as_lost_rank(ranks.rank):
        shard(scorer)
        _allocate(scorer, device)
        state = loaded[0].module.state_dict() if loaded else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(scorer.module, state, options=options)
    return Sharded(scorer, model, meta_model, fingerprint)


def empty_replica(
    meta_model: LanguageModel, device: torch.device, dtype: torch.dtype, trained: LanguageModel | None = None
) -> LanguageModel:
    """Return a model with memory for whole weights on this rank, for its sampler.

    Its values are undefined until `load_weights`. With fused layers, everything except their matrices stays float32, as
    in the trainer. The frozen vision tower is that of the `trained` model, and so are its vectors of images."""
    module = copy.deepcopy(meta_model.module)
    embedding, head = module.get_input_embeddings().weight, module.get_output_embeddings().weight
    allocated: dict[Parameter, Parameter] = {}  # by the identity of parameters, so tied ones are allocated once
    if trained is not None:
        allocated |= zip(tower_parameters(module), tower_parameters(trained.module), strict=True)
    for submodule in module.modules():
        for name, p in submodule._parameters.items():
            if p is None:
                continue
            if p not in allocated:
                keeps_float32 = meta_model.fused and (p is embedding or p is head or p.ndim < 2)
                empty = torch.empty_like(p, device=device, dtype=torch.float32 if keeps_float32 else dtype)
                allocated[p] = Parameter(empty, requires_grad=False)
            submodule._parameters[name] = allocated[p]
    _set_buffers(module, dict(module.named_buffers()), device)
    return replace(meta_model, module=module, image_vectors=None if trained is None else trained.image_vectors)


@torch.no_grad()
def load_weights(model: LanguageModel, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy whole weights into a model, by name."""
    parameters = dict(model.module.named_parameters())
    for name, weight in weights:
        parameters[name].copy_(weight)


def _to_meta(model: LanguageModel) -> LanguageModel:
    """Return the model with parameters on the meta device; tied ones stay tied, and buffers are real."""
    parameters = list(model.module.parameters())
    empty = [Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in parameters]
    memo = dict(zip(map(id, parameters), empty, strict=True))  # `deepcopy` takes these in place of copies
    base = None if model.base is None else _to_meta(model.base)
    module = copy.deepcopy(model.module, memo)
    _drop_recorders(module)
    return _over(module, model, base)


def _drop_recorders(module: Module) -> None:
    """Remove the hooks with which `transformers` records hidden states (of LLaVA's tower), because they cannot be pickled.
    It installs them again when it needs them."""
    for part in module.modules():
        for key, hook in list(part._forward_hooks.items()):
            if hook.__module__ == RECORDERS:
                del part._forward_hooks[key]
        part.__dict__.pop("_output_capturing_hooks_installed", None)


def _register_recorders(module: Any) -> None:
    """Let `transformers` know which hidden states it can record in this process: it learns that when a model of the class
    is made, and here the module was unpickled."""
    with torch.device("meta"):
        type(module)(copy.deepcopy(module.config))


def _over(module: Module, model: LanguageModel, base: LanguageModel | None) -> LanguageModel:
    """Return the model with this module in place of the one that it has."""
    vectors = None if model.image_vectors is None else model.image_vectors.over(module)
    return replace(model, module=module, base=base, image_vectors=vectors)


def _allocate(scorer: Scorer, device: torch.device) -> None:
    """Allocate memory for this rank's shards. `to_empty` loses buffers and unties parameters, so both are restored."""
    buffers = {name: b.clone() for name, b in scorer.named_buffers()}
    tied: dict[Parameter | None, list[tuple[Module, str]]] = {}
    for submodule in scorer.modules():
        for name, p in submodule._parameters.items():
            tied.setdefault(p, []).append((submodule, name))
    scorer.to_empty(device=device)
    for (first, first_name), *others in tied.values():
        for submodule, name in others:
            submodule._parameters[name] = first._parameters[first_name]
    _set_buffers(scorer, buffers, device)


def _set_buffers(module: Module, buffers: dict[str, Tensor], device: torch.device) -> None:
    for name, buffer in buffers.items():
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._buffers[last] = buffer.to(device)
