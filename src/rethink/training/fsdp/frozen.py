"""A frozen model that is sharded over all ranks, for KL terms and other comparisons; see `training.reference.FrozenModel`.

A forward pass gathers its layers from all ranks, as one of the model in training does. With LoRA the start model is the
sharded base itself, with the adapter switched off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from rethink.distributed import raise_as_lost_rank
from rethink.models import lora
from rethink.models.forward import AttentionFn, Head
from rethink.models.sharded_reader import first_cause
from rethink.models.sharded_weights import SHARDS, is_sharded, load_shards
from rethink.training.fsdp.adapter import full_tensor
from rethink.training.fsdp.scorer import Scorer
from rethink.training.reference import FILE, FOLDER


class FrozenWeights:
    """The weights of a scorer's model without its adapter; see `Weights`. Every rank must call `hidden` as often as the
    others. `is_base`: the scorer is the one in training, and its model has an adapter."""

    def __init__(self, scorer: Scorer, is_base: bool) -> None:
        self.scorer = scorer
        self.is_base = is_base
        self.image_vectors = scorer.image_vectors
        self.leaves: list[Tensor] = []

    @property
    def head(self) -> Head:
        """The output layer, which stays gathered after `hidden`."""
        return self.scorer.weights().head

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        with torch.no_grad(), lora.switched_off(self.scorer.module):
            found: Tensor = self.scorer.run(lambda weights: weights.hidden(ids_T, positions_T, attend))
            return found

    def release(self) -> None:
        """Drop what is gathered, after a use. The model in training drops its weights after the backward pass.

        FSDP also records each forward pass for a backward pass, which never comes here. Versions of torch without
        `reset_iter_state` keep these records, about 50 bytes per layer."""
        if not self.is_base:
            cast(Any, getattr(self.scorer, "reset_iter_state", cast(FSDPModule, self.scorer).reshard))()

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        assert not gradients, "a frozen model has no leaves"


class ShardedModel:
    """See `FrozenModel`."""

    def __init__(self, scorer: Scorer, rank: int, *, is_base: bool = False) -> None:
        self.scorer = scorer
        self._rank = rank
        self._is_base = is_base

    @property
    def _parameters(self) -> dict[str, Tensor]:
        """This rank's shards by name. FSDP may replace them at the first forward pass."""
        return {name: p.detach() for name, p in self.scorer.module.named_parameters()}

    def weights(self) -> FrozenWeights:
        return FrozenWeights(self.scorer, self._is_base)

    @torch.no_grad()
    def mix(self, other: Iterable[tuple[str, Tensor]], share: float) -> None:
        parameters = self._parameters
        for name, weight in other:
            own = parameters[name]
            _local(own).lerp_(_shard_like(own, weight.to(own.dtype)), share)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        with raise_as_lost_rank(self._rank):
            for name, p in self._parameters.items():
                yield name, full_tensor(p)

    def write(self, checkpoint: Path) -> None:
        with raise_as_lost_rank(self._rank):
            try:
                save({"model": self._parameters}, checkpoint_id=checkpoint / FOLDER / SHARDS)
            except CheckpointException as err:
                raise OSError(first_cause(err)) from err

    @torch.no_grad()
    def read(self, checkpoint: Path) -> None:
        with raise_as_lost_rank(self._rank):
            if is_sharded(checkpoint / FOLDER):
                load_shards({"model": self._parameters}, checkpoint / FOLDER, single_process=False)
                return
        with safe_open(checkpoint / FILE, "pt") as file:
            for name, own in self._parameters.items():
                _local(own).copy_(_shard_like(own, file.get_tensor(name)))


def _local(own: Tensor) -> Tensor:
    return own.to_local() if isinstance(own, DTensor) else own


def _shard_like(own: Tensor, whole: Tensor) -> Tensor:
    """Return this rank's share of a whole tensor, which every rank has; all of it if `own` is not sharded."""
    if not isinstance(own, DTensor):
        return whole.to(own.device)
    share = distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    return share.to_local()
