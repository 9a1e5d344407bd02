"""Training in several processes with FSDP2: each rank holds a shard of weights, gradients and optimizer state.

A layer's weights are gathered from all ranks just before they are needed, and dropped afterwards. Gradients are summed
over ranks and scattered (Zhao et al., arXiv 2304.11277). Each rank takes some of the micro-batches; the loss denominators
were counted over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rethink.distributed import Ranks, raise_as_lost_rank
from rethink.models import lora
from rethink.models.checkpoint_files import OPTIMIZER
from rethink.models.forward import Weights
from rethink.models.forward.lowrank import merged_weight
from rethink.models.language_model import LanguageModel
from rethink.models.sharded_weights import is_sharded
from rethink.training import sharded_checkpoint as shards
from rethink.training.engine import Pack, lay_out_pack
from rethink.training.fsdp import adapter
from rethink.training.fsdp.adapter import full_tensor
from rethink.training.fsdp.frozen import FrozenWeights, ShardedModel
from rethink.training.fsdp.scorer import Scorer
from rethink.training.losses import LossOutput, LossSettings, loss_of
from rethink.training.losses.forward import trained_log_probs
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import TrainingSample, lay_out


class FSDPEngine:
    """See `training.engine.Engine`. `model` is the sharded one inside the scorer; `base_fingerprint` identifies the base
    weights if it has an adapter. `shard_start` opens the start model, sharded, in float32 if its argument is true."""

    def __init__(
        self,
        scorer: Scorer,
        model: LanguageModel,
        ranks: Ranks,
        shard_start: Callable[[bool], Scorer],
        base_fingerprint: str | None = None,
    ) -> None:
        self.scorer = scorer
        self.model = model
        self.dtype = scorer.dtype
        self.ranks = ranks
        self.base_fingerprint = base_fingerprint
        self.parameters = [p for p in model.module.parameters() if p.requires_grad]
        self._shard_start = shard_start

    def n_shares(self, n_samples: int) -> int:
        return self.ranks.size

    def backward(
        self, packs: Sequence[Pack], settings: LossSettings, reference: Weights | None
    ) -> tuple[float, Statistics]:
        """Process the packs in rounds, one pack on each rank.

        A rank without a pack in a round repeats the round's first one with weight 0: the others need it to gather
        weights."""
        rounds = rounds_of(packs, self.ranks.size)
        own_losses: list[float] = []
        own_statistics = Statistics()
        with raise_as_lost_rank(self.ranks.rank):
            for indices in rounds:
                repeats = self.ranks.rank >= len(indices)
                pack = packs[indices[0 if repeats else self.ranks.rank]]
                output = self._loss(pack, settings, reference)
                (output.loss * 0 if repeats else output.loss).backward()
                if pack.part.needs_reference and isinstance(reference, FrozenWeights):
                    reference.release()
                own_losses.append(float(output.loss.detach()))
                if not repeats:
                    own_statistics.add(output.statistics)
        gathered = self.ranks.gather((own_losses, own_statistics))
        statistics = Statistics()
        for _, theirs in gathered:
            statistics.add(theirs)
        loss = 0.0
        for k, indices in enumerate(rounds):
            for losses, _ in gathered[: len(indices)]:
                loss += losses[k]
        return loss, statistics

    def _loss(self, pack: Pack, settings: LossSettings, reference: Weights | None) -> LossOutput:
        chunk_tokens, part = self.scorer.chunk_tokens, pack.part
        micro = lay_out_pack(pack, self.model.device, reference, chunk_tokens, self.model.image_vectors)
        if micro.reference_T is not None and isinstance(reference, FrozenWeights):
            reference.release()  # before the weights in training are gathered
        loss = loss_of(part)
        values = self.scorer(lambda weights: loss.forward(weights, reference, micro, part, chunk_tokens))
        return loss.compute(micro, values, part, settings)

    def log_probs(self, batches: Sequence[Sequence[TrainingSample]]) -> list[list[Tensor]]:
        own = []
        with raise_as_lost_rank(self.ranks.rank), torch.no_grad():
            for i in self._own_indices(len(batches)):
                batch = batches[0 if i >= len(batches) else i]
                micro = lay_out(batch, self.model.device, self.model.image_vectors)
                log_probs_T = self.scorer(
                    partial(trained_log_probs, chunk_tokens=self.scorer.chunk_tokens, micro=micro)
                )
                own.append([x.cpu().numpy() for x in micro.by_sample(log_probs_T)])
                cast(FSDPModule, self.scorer).reshard()
        gathered = self.ranks.gather(own)
        found = []
        for i in range(len(batches)):
            log_probs = gathered[i % self.ranks.size][i // self.ranks.size]
            found.append([torch.from_numpy(x) for x in log_probs])
        return found

    def start_model(self, in_float32: bool = False) -> ShardedModel:
        if self.base_fingerprint is not None and not in_float32:
            return ShardedModel(self.scorer, self.ranks.rank, is_base=True)
        return ShardedModel(self._shard_start(in_float32), self.ranks.rank)

    def clip(self, max_norm: float) -> float:
        with raise_as_lost_rank(self.ranks.rank):
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
            return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def all_finite(self) -> bool:
        return not self.ranks.any(not all(bool(_local_shard(p).isfinite().all()) for p in self.parameters))

    def write(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        if self.base_fingerprint is not None:
            adapter.write(checkpoint, self.model.module, optimizer, self.base_fingerprint, self.ranks)
            return
        with raise_as_lost_rank(self.ranks.rank):
            shards.write(checkpoint, self.model.module, optimizer)
        if self.ranks.is_rank0:  # last, because no rank may wait for one that fails alone
            module: Any = self.model.module
            module.config.save_pretrained(checkpoint)
            module.generation_config.save_pretrained(checkpoint)

    def read(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        with raise_as_lost_rank(self.ranks.rank):
            if is_sharded(checkpoint):
                shards.read(checkpoint, self.model.module, optimizer, single_process=False)
            else:
                shards.shard_optimizer_state(checkpoint / OPTIMIZER, self.model.module, optimizer)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every whole weight, with its adapter merged in float32, by its Hugging Face name.

        Each is gathered when its turn comes, so all ranks must iterate to the end."""
        with raise_as_lost_rank(self.ranks.rank):
            for name, p, layer in lora.base_parameters(self.model.module):
                yield name, full_tensor(p) if layer is None else merged_weight(layer, full_tensor)

    def named_adapter(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every whole parameter of the adapter by its name; all ranks must iterate to the end."""
        with raise_as_lost_rank(self.ranks.rank):
            for name, p in lora.adapter_parameters(self.model.module).items():
                yield name, full_tensor(p)

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the names and whole shapes of the weights that `named_weights` yields."""
        return [(name, tuple(p.shape)) for name, p, _ in lora.base_parameters(self.model.module)]

    def _own_indices(self, n: int) -> range:
        """Return the indices of this rank's items among n, equally many on all ranks; the last may be n or more."""
        size = self.ranks.size
        return range(self.ranks.rank, math.ceil(n / size) * size, size)


def rounds_of(packs: Sequence[Pack], size: int) -> list[list[int]]:
    """Return rounds of at most `size` indices of packs, in order. The packs of a round are of one part: other losses may
    run the model, or the reference, more often or in another order, and ranks must gather weights alike."""
    rounds: list[list[int]] = []
    for i, pack in enumerate(packs):
        if not rounds or len(rounds[-1]) == size or pack.part is not packs[rounds[-1][-1]].part:
            rounds.append([])
        rounds[-1].append(i)
    return rounds


def _local_shard(p: Tensor) -> Tensor:
    return p.to_local() if isinstance(p, DTensor) else p
