"""Where log-probs and gradients of micro-batches come from: threads of this process, or many processes (`sharded`).

The trainer decides what is computed; an engine, where. Every engine gives the same sums except for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Protocol

import torch
from torch import Tensor

from rethink import threads
from rethink.distributed import ALONE, Ranks
from rethink.models import lora
from rethink.models.forward import Weights
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.shards import is_sharded
from rethink.settings import Training
from rethink.train.backward import backward
from rethink.train.loss import token_log_probs
from rethink.train.micro_batch import MicroBatch, Row, lay_out
from rethink.train.monitor import Monitor

OPTIMIZER = "optimizer.pt"
"""The file of the optimizer's state in a checkpoint that one process wrote."""

Score = Callable[[MicroBatch], Tensor]
"""Log-probs [T] of a micro-batch's trained tokens under the weights that are trained; a piece asks for them once."""

Piece = Callable[[Score, Monitor], Tensor]
"""A micro-batch: its share of the loss; what is noteworthy goes to the monitor."""


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

    def n_shares(self, n_rows: int) -> int:
        """Into how many shares of like size this many rows should be packed."""
        ...

    def backward(self, pieces: Sequence[Piece], monitor: Monitor) -> float:
        """Add the gradient of the pieces' sum to the parameters'; returns that sum."""
        ...

    def log_probs(self, batches: Sequence[Sequence[Row]]) -> list[list[Tensor]]:
        """Log-probs [T] of each row's trained tokens, micro-batch by micro-batch, without a gradient."""
        ...

    def clip(self, max_norm: float) -> float:
        """Scale the gradient down to this norm at most; returns the norm that it had."""
        ...

    def all_finite(self) -> bool:
        """Whether every weight is a finite number."""
        ...

    def write(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        """Save weights and optimizer state into a folder. Raises OSError, RuntimeError or SafetensorError."""
        ...

    def read(self, checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
        """Load optimizer state, and weights unless the model was opened from this checkpoint, of whatever engine it is."""
        ...


class LocalEngine:
    """One process: on a CPU its threads share the micro-batches."""

    def __init__(self, model: LanguageModel, settings: Training) -> None:
        self.model = model
        self.dtype = pick_dtype(settings.autocast, model)
        self.ranks = ALONE
        self.chunk_tokens = settings.chunk_tokens
        if settings.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        self.parameters = [p for p in model.module.parameters() if p.requires_grad]

    def n_shares(self, n_rows: int) -> int:
        return threads.n_workers(self.model.device, n_rows)

    def backward(self, pieces: Sequence[Piece], monitor: Monitor) -> float:
        weights = self.model.weights(self.dtype, trainable=True)
        asked = [partial(piece, partial(score, weights, self.chunk_tokens)) for piece in pieces]
        return sum(backward(asked, weights, self.model.device, monitor))

    def log_probs(self, batches: Sequence[Sequence[Row]]) -> list[list[Tensor]]:
        weights = self.model.weights(self.dtype)
        n = threads.n_workers(self.model.device, len(batches))

        def share(some: Sequence[Sequence[Row]], stop: Event) -> list[list[Tensor]]:
            now = [rows for rows in some if not stop.is_set()]
            return [by_row(rows, partial(score, weights, self.chunk_tokens), self.model.device) for rows in now]

        found: list[list[Tensor]] = [[]] * len(batches)
        for k, done in enumerate(threads.run([partial(share, batches[k::n]) for k in range(n)])):
            found[k::n] = done
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
            from rethink.train.sharded import checkpoint as shards  # imported here: it takes half a second

            shards.read(checkpoint, self.model.module, optimizer, alone=True)
        else:
            state = torch.load(checkpoint / OPTIMIZER, weights_only=True, map_location=self.model.device)
            optimizer.load_state_dict(state)


def score(weights: Weights, chunk_tokens: int, micro: MicroBatch) -> Tensor:
    """Log-probs [T] of the micro-batch's trained tokens under these weights."""
    hidden_F_H = weights.hidden(micro.ids_F, micro.positions_F, micro.attend)
    return token_log_probs(hidden_F_H[micro.place_T], weights.head, micro.target_T, micro.temperature_T, chunk_tokens)


@torch.no_grad()
def by_row(rows: Sequence[Row], of: Score, device: torch.device) -> list[Tensor]:
    """Log-probs [T] of each row's trained tokens, in the order of the rows."""
    micro = lay_out(rows, device)
    pieces = of(micro).split([row.sample.n_trained for row in micro.rows])
    found = {id(row): piece for row, piece in zip(micro.rows, pieces, strict=True)}
    return [found[id(row)] for row in rows]
