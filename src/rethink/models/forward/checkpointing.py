"""Activations that are computed again in the backward pass instead of being kept (Chen et al., arXiv 1604.06174).

Of each layer only the input stays in memory. The layer's forward pass runs twice, with the same operations: gradients
are the same bits. Nothing of this is left on a module: its mode, its flags and its layers are as they were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rethink.errors import UserError


def again(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What `work` returns. Where a gradient is wanted, its backward pass calls it again with the same arguments.

    There is no dropout in our forward passes, so that no state of a random generator has to be kept.
    """
    if not torch.is_grad_enabled():
        return work(*arguments, **named)
    return checkpoint(work, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


def layers_of(module: Any) -> list[Any]:
    """The layers of a model of `transformers` that can be computed again, each a whole one. Raises UserError for a model
    that has none."""
    found: list[Any] = []
    inner: set[int] = set()
    for part in module.modules():
        if isinstance(part, GradientCheckpointingLayer) and id(part) not in inner:
            found.append(part)
            inner.update(map(id, part.modules()))
    if not found:
        raise UserError(
            "this model has no layers that can be computed again; set training.gradient_checkpointing = false"
        )
    return found


_lock = threading.Lock()
_users: dict[int, int] = {}


@contextmanager
def layers_again(module: Any, around: Callable[[], AbstractContextManager[object]] = nullcontext) -> Iterator[None]:
    """While it is open, forward passes of the module's layers are computed again in the backward pass, which may come
    later; it then runs inside `around()`. For as many threads as one likes, and for layers whose hooks gather their
    weights: the hooks stay outside."""
    layers = layers_of(module)
    with _lock:
        _users[id(module)] = _users.get(id(module), 0) + 1
        if _users[id(module)] == 1:
            for layer in layers:
                layer.forward = partial(again, partial(_inside, layer.forward, around))
    try:
        yield
    finally:
        with _lock:
            _users[id(module)] -= 1
            if not _users[id(module)]:
                del _users[id(module)]
                for layer in layers:
                    del layer.forward


def _inside(
    forward: Callable[..., Any], around: Callable[[], AbstractContextManager[object]], *arguments: Any, **named: Any
) -> Any:
    with around():
        return forward(*arguments, **named)
