"""One optimizer step's gradient: micro-batches on all cores, summed in an order that does not depend on timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Event

import torch
from torch import Tensor

from rethink import threads
from rethink.models.forward import Weights
from rethink.train.monitor import Monitor

Loss = Callable[[Monitor], Tensor]
"""A micro-batch's share of the loss, under weights of which the gradient is taken."""


def backward(pieces: Sequence[Loss], weights: Weights, device: torch.device, monitor: Monitor) -> list[float]:
    """Add the gradient of the pieces' sum to the parameters; returns the pieces' losses, in order."""
    n = threads.n_workers(device, len(pieces))
    shares = threads.run([partial(_share, pieces[k::n], weights) for k in range(n)])
    losses = [0.0] * len(pieces)
    for k, share in enumerate(shares):
        losses[k::n] = share.losses
        monitor.add(share.monitor)
    gradients = shares[0].gradients
    for share in shares[1:]:
        gradients = _sum(gradients, share.gradients)
    weights.backward_to_parameters(gradients)
    return losses


class _Share:
    """What came of one worker's pieces."""

    def __init__(self, n_leaves: int) -> None:
        self.losses: list[float] = []
        self.gradients: list[Tensor | None] = [None] * n_leaves
        self.monitor = Monitor()


def _share(pieces: Sequence[Loss], weights: Weights, stop: Event) -> _Share:
    share = _Share(len(weights.leaves))
    for piece in pieces:
        if stop.is_set():
            raise threads.Stopped
        loss = piece(share.monitor)
        share.losses.append(float(loss.detach()))
        share.gradients = _sum(share.gradients, torch.autograd.grad(loss, weights.leaves, allow_unused=True))
    return share


def _sum(total: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Leaf by leaf, in float32 and in place of the total."""
    return [_added(a, b) for a, b in zip(total, new, strict=True)]


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return a if b is None else b.float()
    return a.add_(b)
