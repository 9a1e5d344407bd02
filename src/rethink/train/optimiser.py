"""The optimiser that a recipe names: torch's AdamW, or the same with its two averages in 8 bits each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rethink.errors import UserError
from rethink.settings import Optimisation


def open_optimiser(parameters: Sequence[Tensor], settings: Optimisation) -> Optimizer:
    """AdamW over the parameters. "adamw8bit" keeps both averages in blocks of 256 numbers of 8 bits with one scale each
    (Dettmers et al., arXiv 2110.02861); small parameters keep float32. Raises UserError where its package is missing."""
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(
            parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
    return _eight_bits()(parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def _eight_bits() -> Any:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as err:
        raise UserError(
            'training.optimiser = "adamw8bit" needs the package torchao: pip install "rethink[adamw8bit]"'
        ) from err
    return AdamW8bit


def set_lr(optimiser: Optimizer, lr: float) -> None:
    """The learning rate of the next step; in place where the optimiser holds it as a tensor."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def take_step(optimiser: Optimizer) -> None:
    """One step. torchao compiles its own for each shape: on a CPU that would need a C++ compiler, and minutes."""
    first = optimiser.param_groups[0]["params"][0]
    if first.device.type == "cpu" and not isinstance(optimiser, torch.optim.AdamW):
        with torch.compiler.set_stance("force_eager"):
            optimiser.step()
    else:
        optimiser.step()
