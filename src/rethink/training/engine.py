"""Engines compute log-probs and gradients of micro-batches: `LocalEngine` in this process, `fsdp` in several.

The trainer decides what to compute, the engine where. All engines give the same sums, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rethink import threads
from rethink.distributed import SINGLE_PROCESS, Ranks
from rethink.models import lora
from rethink.models.checkpoint_files import OPTIMIZER
from rethink.models.forward import Weights
from rethink.models.forward.embedding import ImageSource, trained_tower
from rethink.models.forward.lowrank import merged_weight
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.sharded_weights import is_sharded
from rethink.objectives import Part
from rethink.settings import Training
from rethink.training.losses import LossOutput, LossSettings, loss_of
from rethink.training.losses.forward import trained_log_probs
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from rethink.training.reference import FrozenModel, WholeModel, whole_copy


class Pack(NamedTuple):
    """The samples of one part that form a micro-batch."""

    part: Part
    samples: Sequence[TrainingSample]


class Engine(Protocol):
    """The model in training, on one or several processes. All ranks call every method, with the same arguments, and get the
    same result."""

    model: LanguageModel
    dtype: torch.dtype
    ranks: Ranks

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimizer updates; on several ranks, the shards of this one."""
        ...

    def n_shares(self, n_samples: int) -> int:
        """Return the number of equal shares, one per worker, to pack this many samples into."""
        ...

    def backward(
        self, packs: Sequence[Pack], settings: LossSettings, reference: Weights | None
    ) -> tuple[float, Statistics]:
        """Add the gradients of the packs' losses to the parameters. Return the sum of the losses, and statistics.

        `reference` is the start model or another that parts compare with."""
        ...

    def log_probs(self, batches: Sequence[Sequence[TrainingSample]]) -> list[list[Tensor]]:
        """Return the log-probs [T] of each sample's trained tokens, by micro-batch, without gradients."""
        ...

    def start_model(self, in_float32: bool = False) -> FrozenModel:
        """Return the frozen start model, in float32 a copy of it."""
        ...

    def clip(self, max_norm: float) -> float:
        """Scale the gradient down to a norm of at most `max_norm`. Return the norm before."""
        ...

    def all_finite(self) -> bool:
        """Return whether all weights are finite."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every whole weight, with its adapter merged in float32, by its Hugging Face name; tied ones once."""
        ...

    def write(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        """Save weights and optimizer state to a folder. Raise OSError, RuntimeError or SafetensorError on failure."""
        ...

    def read(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        """Load optimizer state, and weights unless the model came from this checkpoint. Any engine may have written it."""
        ...


def lay_out_pack(
    pack: Pack,
    device: torch.device,
    reference: Weights | None,
    chunk_tokens: int,
    image_vectors: ImageSource | None = None,
) -> MicroBatch:
    """Return the pack as tensors, with log-probs of the start model if its part needs them."""
    micro = lay_out(pack.samples, device, image_vectors)
    if not pack.part.needs_reference or not loss_of(pack.part).reference_log_probs:
        return micro
    assert reference is not None
    with torch.no_grad():
        return replace(micro, reference_T=trained_log_probs(reference, chunk_tokens, micro))


class LocalEngine:
    """Trains in one process. On a CPU, threads share the micro-batches. `start` returns the frozen start model, which it
    keeps; `load` loads one that nothing keeps."""

    def __init__(
        self,
        model: LanguageModel,
        settings: Training,
        start: Callable[[], LanguageModel],
        load: Callable[[], LanguageModel],
    ) -> None:
        self.model = model
        self._start = start
        self._load = load
        self.dtype = pick_dtype(settings.autocast, model)
        self.ranks = SINGLE_PROCESS
        self.chunk_tokens = settings.chunk_tokens
        if settings.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        self.parameters = [p for p in model.module.parameters() if p.requires_grad]

    def n_shares(self, n_samples: int) -> int:
        return threads.n_workers(self.model.device, n_samples)

    def backward(
        self, packs: Sequence[Pack], settings: LossSettings, reference: Weights | None
    ) -> tuple[float, Statistics]:
        weights = self.model.weights(self.dtype, trainable=True)
        n = threads.n_workers(self.model.device, len(packs))
        work = [partial(self._backward, packs[k::n], weights, settings, reference) for k in range(n)]
        losses = [0.0] * len(packs)
        statistics = Statistics()
        gradients: list[Tensor | None] = [None] * len(weights.leaves)
        # Results are added in a fixed order, by worker and by pack, so sums do not depend on timing.
        for k, share in enumerate(threads.run(work)):
            losses[k::n] = share.losses
            statistics.add(share.statistics)
            gradients = _add_gradients(gradients, share.gradients)
        weights.backward_to_parameters(gradients)
        return sum(losses), statistics

    def _backward(
        self,
        packs: Sequence[Pack],
        weights: Weights,
        settings: LossSettings,
        reference: Weights | None,
        stop: Event,
    ) -> _WorkerResult:
        """Return the losses, statistics and gradients of one worker's packs."""
        losses: list[float] = []
        statistics = Statistics()
        gradients: list[Tensor | None] = [None] * len(weights.leaves)
        for pack in packs:
            if stop.is_set():
                raise threads.Stopped
            output = self._loss(pack, weights, settings, reference)
            gradients = _add_gradients(gradients, torch.autograd.grad(output.loss, weights.leaves, allow_unused=True))
            losses.append(float(output.loss.detach()))
            statistics.add(output.statistics)
        return _WorkerResult(losses, statistics, gradients)

    def _loss(self, pack: Pack, weights: Weights, settings: LossSettings, reference: Weights | None) -> LossOutput:
        micro = lay_out_pack(pack, self.model.device, reference, self.chunk_tokens, self.model.image_vectors)
        loss = loss_of(pack.part)
        values = loss.forward(weights, reference, micro, pack.part, self.chunk_tokens)
        return loss.compute(micro, values, pack.part, settings)

    def log_probs(self, batches: Sequence[Sequence[TrainingSample]]) -> list[list[Tensor]]:
        weights = self.model.weights(self.dtype)
        n = threads.n_workers(self.model.device, len(batches))
        found: list[list[Tensor]] = [[]] * len(batches)
        for k, share in enumerate(threads.run([partial(self._log_probs, batches[k::n], weights) for k in range(n)])):
            found[k::n] = share
        return found

    @torch.no_grad()
    def _log_probs(
        self, batches: Sequence[Sequence[TrainingSample]], weights: Weights, stop: Event
    ) -> list[list[Tensor]]:
        found = []
        for samples in batches:
            if stop.is_set():
                raise threads.Stopped
            micro = lay_out(samples, self.model.device, self.model.image_vectors)
            found.append(micro.by_sample(trained_log_probs(weights, self.chunk_tokens, micro)))
        return found

    def start_model(self, in_float32: bool = False) -> WholeModel:
        if in_float32:
            return whole_copy(self._load(), self.dtype, moves_tower=bool(trained_tower(self.model.module)))
        return WholeModel(self._start(), self.dtype)

    def clip(self, max_norm: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, max_norm))

    def all_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.parameters)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, p, layer in lora.base_parameters(self.model.module):
            yield name, p if layer is None else merged_weight(layer)

    def write(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        if self.model.base is None:
            self.model.module.save_pretrained(checkpoint)
        else:
            lora.save(self.model, checkpoint)
        torch.save(optimizer.state_dict(), checkpoint / OPTIMIZER)

    def read(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        if is_sharded(checkpoint):
            from rethink.training import sharded_checkpoint as shards  # imported here: it takes half a second

            shards.read(checkpoint, self.model.module, optimizer, single_process=True)
        else:
            state = torch.load(checkpoint / OPTIMIZER, weights_only=True, map_location=self.model.device)
            optimizer.load_state_dict(state)


class _WorkerResult(NamedTuple):
    """Losses, statistics and gradients of one worker's packs."""

    losses: list[float]
    statistics: Statistics
    gradients: list[Tensor | None]


def _add_gradients(total: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Add `new` to `total`, leaf by leaf, in float32 and in place."""
    found: list[Tensor | None] = []
    for a, b in zip(total, new, strict=True):
        if a is None or b is None:
            found.append(a if b is None else b.float())
        else:
            found.append(a.add_(b))
    return found
