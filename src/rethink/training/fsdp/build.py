"""A model that no process holds as a whole: built without memory, sharded, then filled from rank 0."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn import Module, Parameter

from rethink.distributed import Ranks, raise_as_lost_rank
from rethink.models import lora
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.settings import Training
from rethink.training.fsdp.engine import FSDPEngine, Scorer, shard


def build(
    ranks: Ranks, load: Callable[[], LanguageModel], settings: Training, device: torch.device
) -> tuple[FSDPEngine, LanguageModel]:
    """The engine, and a model of the same form without weights (and without adapter), for a sampler's copy of them.

    Rank 0 alone calls `load`: a whole model is there alone, on the CPU, until it is spread.
    """
    loaded: list[LanguageModel] = []

    def form() -> tuple[LanguageModel, str | None]:
        loaded.append(load())
        base = loaded[0].base
        return _without_weights(loaded[0]), None if base is None else lora.fingerprint(base.module)

    meta_model, base = ranks.on_rank0(form)
    model = replace(meta_model, module=copy.deepcopy(meta_model.module), base=None)
    scorer = Scorer(model.module, pick_dtype(settings.autocast, meta_model, device), settings)
    with raise_as_lost_rank(ranks.rank):
        shard(scorer)
        _give_memory(scorer, device)
        state = loaded[0].module.state_dict() if loaded else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(scorer.module, state, options=options)
    return FSDPEngine(scorer, model, ranks, base), meta_model.base or meta_model


def empty_replica(meta_model: LanguageModel, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Return a model with room for whole weights on this rank, for its sampler.

    Its values are undefined until `load_weights`. With fused layers, everything except their matrices stays float32, as
    in the trainer."""
    module = copy.deepcopy(meta_model.module)
    embedding, head = module.get_input_embeddings().weight, module.get_output_embeddings().weight
    made: dict[Parameter, Parameter] = {}  # parameters are told apart by identity
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is None:
                continue
            if p not in made:  # a tied one is made once
                is_exact = meta_model.fused and (p is embedding or p is head or p.ndim < 2)
                room = torch.empty_like(p, device=device, dtype=torch.float32 if is_exact else dtype)
                made[p] = Parameter(room, requires_grad=False)
            part._parameters[name] = made[p]
    _set_buffers(module, dict(module.named_buffers()), device)
    return replace(meta_model, module=module)


@torch.no_grad()
def load_weights(model: LanguageModel, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put whole weights, by name, into a model."""
    parameters = dict(model.module.named_parameters())
    for name, weight in weights:
        parameters[name].copy_(weight)


def _without_weights(model: LanguageModel) -> LanguageModel:
    """The same model with parameters that take no memory; tied ones stay tied, and buffers are real."""
    parameters = list(model.module.parameters())
    empty = [Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in parameters]
    memo = dict(zip(map(id, parameters), empty, strict=True))  # what `deepcopy` takes for copies that are made already
    base = None if model.base is None else _without_weights(model.base)
    return replace(model, module=copy.deepcopy(model.module, memo), base=base)


def _give_memory(scorer: Scorer, device: torch.device) -> None:
    """Memory for this rank's shards. `to_empty` forgets buffers and that parameters are tied."""
    buffers = {name: b.clone() for name, b in scorer.named_buffers()}
    tied: dict[Parameter | None, list[tuple[Module, str]]] = {}
    for part in scorer.modules():
        for name, p in part._parameters.items():
            tied.setdefault(p, []).append((part, name))
    scorer.to_empty(device=device)
    for (first, first_name), *others in tied.values():
        for part, name in others:
            part._parameters[name] = first._parameters[first_name]
    _set_buffers(scorer, buffers, device)


def _set_buffers(module: Module, buffers: dict[str, Tensor], device: torch.device) -> None:
    for name, buffer in buffers.items():
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._buffers[last] = buffer.to(device)
