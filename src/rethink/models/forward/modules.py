"""Any causal model of `transformers` through its own modules, with our attention in place of theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from rethink.errors import UserError
from rethink.models.forward.attention import AttentionFn, window_of
from rethink.models.forward.checkpointing import layers_again

ATTENTION = "rethink"
"""The name under which `transformers` knows our attention."""

KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attend: AttentionFn | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Queries [1, A, T, D] of one flat sequence; returns [1, T, A, D]."""
    odd = [name for name in ("softcap", "s_aux") if other.get(name) is not None]
    if attend is None or odd:
        raise UserError(
            f"models whose attention {'has ' + odd[0] if odd else 'passes no arguments on'} are not supported"
        )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    out = attend(module.layer_idx, q, k, v, scale=scale, window=window_of(module.config, module.layer_idx))
    return out[None], None


AttentionInterface.register(ATTENTION, _attention)

_lock = threading.Lock()
_users: dict[int, int] = {}
_before: dict[int, str] = {}


@contextmanager
def _our_attention(config: Any) -> Iterator[None]:
    """The module attends as it did before once the last thread has left."""
    with _lock:
        _users[id(config)] = _users.get(id(config), 0) + 1
        if _users[id(config)] == 1:
            _before[id(config)] = config._attn_implementation
            config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        with _lock:
            _users[id(config)] -= 1
            if not _users[id(config)]:
                config._attn_implementation = _before.pop(id(config))
                del _users[id(config)]


class ModuleWeights:
    """The parameters themselves; in another dtype by autocast when trained, else as a copy. With `copy`, a copy anyway.
    With `gradient_checkpointing`, activations are not kept; see `again`."""

    def __init__(
        self,
        module: Any,
        dtype: torch.dtype,
        trainable: bool = False,
        copy: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.gradient_checkpointing = gradient_checkpointing
        own = module.get_output_embeddings().weight.dtype
        same = trainable or (own == dtype and not copy)
        self.module = module if same else deepcopy(module).to(dtype)
        self.cast = dtype if trainable and own != dtype else None
        self.leaves = [p for p in module.parameters() if trainable and p.requires_grad]
        output = module.get_output_embeddings()  # and not the copy's: a head in bfloat16 costs accuracy
        head = output.weight, getattr(output, "bias", None)
        # In float32 once, and not at every step of the sampler.
        self.head = head if trainable else (head[0].float(), head[1])
        if copy:
            self.head = (self.head[0].detach().clone(), None if head[1] is None else head[1].detach().clone())
        odd = set(getattr(module.config, "layer_types", None) or []) - KNOWN_LAYERS
        if odd:
            raise UserError(f"models with {', '.join(sorted(odd))} layers are not supported")

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Final hidden states [T, H]; see `Weights`."""
        with self._autocast(), _our_attention(self.module.config), self._layers():
            out = self.module.base_model(
                input_ids=ids_T[None],
                position_ids=positions_T[None],
                attention_mask=None,
                use_cache=False,
                attend=attend,
            )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def _layers(self) -> AbstractContextManager[object]:
        """Our attention is not in force any more when a backward pass computes layers again."""
        if not self.gradient_checkpointing:
            return nullcontext()
        return layers_again(self.module, partial(_our_attention, self.module.config))

    def _autocast(self) -> AbstractContextManager[object]:
        if self.cast is None:
            return nullcontext()
        return torch.autocast(self.head[0].device.type, dtype=self.cast)

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """The leaves are the parameters."""
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
