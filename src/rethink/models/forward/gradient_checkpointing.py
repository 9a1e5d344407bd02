"""Gradient checkpointing (Chen et al., arXiv 1604.06174): recompute activations in the backward pass.

Only each layer's input stays in memory. The recomputation runs the same operations, so gradients are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rethink.errors import UserError


def checkpointed(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return `work(*arguments, **named)`. With gradients enabled, the backward pass calls it again.

    Our forward passes have no dropout, so the random state is not saved.
    """
    if not torch.is_grad_enabled():
        return work(*arguments, **named)
    return checkpoint(work, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


def enable_checkpointing(module: Any) -> None:
    """Checkpoint the module's layers from now on, whenever gradients are enabled.

    Raise UserError for a model without layers that can be checkpointed. `gradient_checkpointing_enable` of `transformers`
    works only in training mode, where some layers (OPT's) have dropout. Hooks of a layer, such as FSDP2's, run once.
    """
    layers = _layers(module)
    if not layers:
        raise UserError(
            "this model has no layers that can be checkpointed; set training.gradient_checkpointing = false"
        )
    for layer in layers:
        layer.forward = partial(checkpointed, layer.forward)


def _layers(module: Any) -> list[Any]:
    """Return the outermost layers that `transformers` marks for checkpointing."""
    found: list[Any] = []
    for child in module.children():
        if isinstance(child, GradientCheckpointingLayer):
            found.append(child)
        else:
            found += _layers(child)
    return found
