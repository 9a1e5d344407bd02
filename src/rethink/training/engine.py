"""Where log-probs and gradients of micro-batches come from: threads of this process, or many processes (`sharded`).

The trainer decides what is computed; an engine, where. Every engine gives the same sums except for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from rethink.models.forward import Weights
from rethink.models.forward.token_log_probs import token_log_probs
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.shards import is_sharded
from rethink.objectives import Part
from rethink.settings import Training
from rethink.training.losses import LossOutput, LossSettings, loss_of
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from rethink.training.monitor import Statistics

OPTIMIZER = "optimizer.pt"
"""The file of the optimizer's state in a checkpoint that one process wrote."""


class Pack(NamedTuple):
    """Samples of one part that go through the model together, in one micro-batch."""

    part: Part
    samples: Sequence[TrainingSample]


class Engine(Protocol):
    """The model in training, spread over what there is. With several ranks every method is called by all of them, with
    the same arguments, and returns the same to all."""

    model: LanguageModel
    dtype: torch.dtype
    ranks: Ranks

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizer changes; of several ranks each sees its own shards."""
        ...

    def n_shares(self, n_samples: int) -> int:
        """Into how many shares of like size this many samples should be packed."""
        ...

    def backward(
        self, packs: Sequence[Pack], settings: LossSettings, reference: Weights | None
    ) -> tuple[float, Statistics]:
        """Add the gradient of the packs' losses to the parameters'; return their sum and their statistics. `reference` is
        the frozen start model, where a part compares with it."""
        ...

    def log_probs(self, batches: Sequence[Sequence[TrainingSample]]) -> list[list[Tensor]]:
        """Return log-probs [T] of each sample's trained tokens, micro-batch by micro-batch, without a gradient."""
        ...

    def clip(self, max_norm: float) -> float:
        """Scale the gradient down to this norm at most; return the norm that it had."""
        ...

    def all_finite(self) -> bool:
        """Whether every weight is a finite number."""
        ...

    def write(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        """Save weights and optimizer state into a folder. Raise OSError, RuntimeError or SafetensorError."""
        ...

    def read(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        """Load optimizer state, and weights unless the model was opened from this checkpoint, of whatever engine it is."""
        ...


def trained_log_probs(weights: Weights, chunk_tokens: int, micro: MicroBatch) -> Tensor:
    """Return log-probs [T] of the micro-batch's trained tokens under these weights."""
    hidden_F_H = weights.hidden(micro.ids_F, micro.positions_F, micro.attend)
    return token_log_probs(hidden_F_H[micro.place_T], weights.head, micro.target_T, micro.temperature_T, chunk_tokens)


def lay_out_pack(pack: Pack, device: torch.device, reference: Weights | None, chunk_tokens: int) -> MicroBatch:
    """Return the pack as tensors, with log-probs of the start model where its part compares with it."""
    micro = lay_out(pack.samples, device)
    if not pack.part.needs_initial:
        return micro
    assert reference is not None
    with torch.no_grad():
        return replace(micro, reference_T=trained_log_probs(reference, chunk_tokens, micro))


class LocalEngine:
    """One process: on a CPU its threads share the micro-batches."""

    def __init__(self, model: LanguageModel, settings: Training) -> None:
        self.model = model
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
        # Workers are added up in a fixed order, and so are the packs of each: sums do not depend on timing.
        for k, share in enumerate(threads.run(work)):
            losses[k::n] = share.losses
            statistics.add(share.statistics)
            gradients = _sum(gradients, share.gradients)
        weights.backward_to_parameters(gradients)
        return sum(losses), statistics

    def _backward(
        self,
        packs: Sequence[Pack],
        weights: Weights,
        settings: LossSettings,
        reference: Weights | None,
        stop: Event,
    ) -> _Share:
        """Return what one worker's packs come to."""
        losses: list[float] = []
        statistics = Statistics()
        gradients: list[Tensor | None] = [None] * len(weights.leaves)
        for pack in packs:
            if stop.is_set():
                raise threads.Stopped
            output = self._loss(pack, weights, settings, reference)
            gradients = _sum(gradients, torch.autograd.grad(output.loss, weights.leaves, allow_unused=True))
            losses.append(float(output.loss.detach()))
            statistics.add(output.statistics)
        return _Share(losses, statistics, gradients)

    def _loss(self, pack: Pack, weights: Weights, settings: LossSettings, reference: Weights | None) -> LossOutput:
        micro = lay_out_pack(pack, self.model.device, reference, self.chunk_tokens)
        log_probs_T = trained_log_probs(weights, self.chunk_tokens, micro)
        return loss_of(pack.part).compute(micro, log_probs_T, pack.part, settings)

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
            micro = lay_out(samples, self.model.device)
            found.append(micro.by_sample(trained_log_probs(weights, self.chunk_tokens, micro)))
        return found

    def clip(self, max_norm: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, max_norm))

    def all_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.parameters)

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


class _Share(NamedTuple):
    """What came of one worker's packs."""

    losses: list[float]
    statistics: Statistics
    gradients: list[Tensor | None]


def _sum(total: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Add leaf by leaf, in float32 and in place of the total."""
    found: list[Tensor | None] = []
    for a, b in zip(total, new, strict=True):
        if a is None or b is None:
            found.append(a if b is None else b.float())
        else:
            found.append(a.add_(b))
    return found
