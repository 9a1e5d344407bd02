"""Gradient checkpointing (Chen et al., arXiv 1604.06174): a backward pass computes activations again.

Of each layer only the input stays in memory. The layer's forward pass runs twice, with the same operations, so gradients
are the same bits.
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
    """Return what `work` returns. Where a gradient is wanted, the backward pass calls `work` again with these arguments.

    Our forward passes have no dropout, so no state of a random generator has to be kept.
    """
    if not torch.is_grad_enabled():
        return work(*arguments, **named)
    return checkpoint(work, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


def enable_checkpointing(module: Any) -> None:
    """Checkpoint the module's layers from now on, wherever a gradient is wanted; other calls are as they were. Raise
    UserError for a model without such layers.

    The switch of `transformers` itself only works in training mode, where some layers (OPT's) drop out. Hooks of a layer,
    as FSDP2's, stay outside and run once.
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
