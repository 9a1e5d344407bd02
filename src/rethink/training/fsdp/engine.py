"""Training in several processes with FSDP2: each rank holds a shard of weights, gradients and optimizer state.

A layer's weights are gathered from all ranks just before they are needed, and dropped afterwards. Gradients are summed
over ranks and scattered (Zhao et al., arXiv 2304.11277). Each rank takes some of the micro-batches; the loss denominators
were counted over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from rethink.distributed import Ranks, raise_as_lost_rank
from rethink.models import lora
from rethink.models.checkpoint_files import OPTIMIZER
from rethink.models.forward import ModuleWeights, Weights
from rethink.models.forward.embedding import ImageSource, decoder_layers, tower_parameters
from rethink.models.forward.gradient_checkpointing import enable_checkpointing
from rethink.models.forward.lowrank import merged_weight
from rethink.models.language_model import LanguageModel
from rethink.models.sharded_weights import is_sharded
from rethink.objectives import Part
from rethink.settings import Training
from rethink.training import sharded_checkpoint as shards
from rethink.training.engine import Pack, lay_out_pack
from rethink.training.fsdp import adapter
from rethink.training.fsdp.adapter import full_tensor
from rethink.training.losses import LossOutput, LossSettings, loss_of
from rethink.training.losses.forward import trained_log_probs
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out


class Scorer(torch.nn.Module):
    """A module whose `forward` is the whole pass from ids to log-probs, or to what a loss needs instead: FSDP gathers
    weights only during a `forward`."""

    def __init__(
        self,
        module: torch.nn.Module,
        dtype: torch.dtype,
        settings: Training,
        head_dtype: torch.dtype = torch.float32,
        image_vectors: ImageSource | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.image_vectors = image_vectors
        self.dtype = dtype
        self.head_dtype = head_dtype
        self.chunk_tokens = settings.chunk_tokens
        if settings.gradient_checkpointing:
            enable_checkpointing(module)

    def forward(self, micro: MicroBatch, part: Part | None = None, reference: Weights | None = None) -> Any:
        """Return what the part's loss needs; without a part, log-probs [T] of the micro-batch's trained tokens."""
        weights = ModuleWeights(
            self.module, self.dtype, True, image_vectors=self.image_vectors, head_dtype=self.head_dtype
        )
        if part is None:
            return trained_log_probs(weights, self.chunk_tokens, micro)
        return loss_of(part).forward(weights, reference, micro, part, self.chunk_tokens)


def shard(scorer: Scorer) -> None:
    """Shard every layer, and then the other weights, over all ranks. A vision tower stays whole on each rank: it is frozen
    and small, and runs whenever a rank needs the vectors of an image.

    Layers are gathered in the dtype of their products. Embedding, last norm and head are gathered in float32, even from a
    frozen bfloat16 base: trained ones keep small steps. Gradients are summed in float32 and not averaged, because the
    losses of micro-batches are shares of one sum.
    """
    whole = set(tower_parameters(scorer.module))
    layer_policy = MixedPrecisionPolicy(scorer.dtype, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(scorer.module):
        fully_shard(layer, mp_policy=layer_policy)
    root_policy = MixedPrecisionPolicy(torch.float32, cast_forward_inputs=False)
    fully_shard(scorer, mp_policy=root_policy, ignored_params=whole)
    for submodule in scorer.modules():
        if isinstance(submodule, FSDPModule):
            submodule.set_gradient_divide_factor(1.0)
            submodule.set_force_sum_reduction_for_comms(True)


class FSDPEngine:
    """See `training.engine.Engine`. `model` is the sharded one inside the scorer; `base_fingerprint` identifies the base
    weights if it has an adapter."""

    def __init__(self, scorer: Scorer, model: LanguageModel, ranks: Ranks, base_fingerprint: str | None = None) -> None:
        self.scorer = scorer
        self.model = model
        self.dtype = scorer.dtype
        self.ranks = ranks
        self.base_fingerprint = base_fingerprint
        self.parameters = [p for p in model.module.parameters() if p.requires_grad]

    def n_shares(self, n_samples: int) -> int:
        return self.ranks.size

    def backward(
        self, packs: Sequence[Pack], settings: LossSettings, reference: Weights | None
    ) -> tuple[float, Statistics]:
        """Process the packs round by round, one on each rank.

        A rank without a pack left repeats another one with weight 0: the others need it to gather weights."""
        rounds = rounds_of(packs, self.ranks.size)
        own_losses: list[float] = []
        own_statistics = Statistics()
        with raise_as_lost_rank(self.ranks.rank):
            for indices in rounds:
                repeats = self.ranks.rank >= len(indices)
                output = self._loss(packs[indices[0 if repeats else self.ranks.rank]], settings, reference)
                (output.loss * 0 if repeats else output.loss).backward()
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
        micro = lay_out_pack(pack, self.model.device, reference, self.scorer.chunk_tokens, self.model.image_vectors)
        values = self.scorer(micro, pack.part, reference)
        return loss_of(pack.part).compute(micro, values, pack.part, settings)

    def log_probs(self, batches: Sequence[Sequence[TrainingSample]]) -> list[list[Tensor]]:
        own = []
        with raise_as_lost_rank(self.ranks.rank), torch.no_grad():
            for i in self._own_indices(len(batches)):
                batch = batches[0 if i >= len(batches) else i]
                micro = lay_out(batch, self.model.device, self.model.image_vectors)
                log_probs_T = self.scorer(micro)
                own.append([x.cpu().numpy() for x in micro.by_sample(log_probs_T)])
                cast(FSDPModule, self.scorer).reshard()
        gathered = self.ranks.gather(own)
        found = []
        for i in range(len(batches)):
            log_probs = gathered[i % self.ranks.size][i // self.ranks.size]
            found.append([torch.from_numpy(x) for x in log_probs])
        return found

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
    """Return rounds of at most `size` indices of packs, in order. The packs of a round are of one part: a teacher that is
    the policy itself gathers the weights once more than other losses, and ranks must gather them equally often."""
    rounds: list[list[int]] = []
    for i, pack in enumerate(packs):
        if not rounds or len(rounds[-1]) == size or pack.part is not packs[rounds[-1][-1]].part:
            rounds.append([])
        rounds[-1].append(i)
    return rounds


def _local_shard(p: Tensor) -> Tensor:
    return p.to_local() if isinstance(p, DTensor) else p
