"""The forward pass for any causal model of `transformers`: its own modules, with our attention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from rethink.errors import UserError
from rethink.models.forward.attention import AttentionFn, sliding_window

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
    """Return the attention [1, T, A, D] for queries [1, A, T, D] of one flat sequence."""
    if attend is None:
        raise UserError("models whose attention layers do not pass on keyword arguments are not supported")
    for name in ("softcap", "s_aux"):
        if other.get(name) is not None:
            raise UserError(f"models whose attention has {name} are not supported")
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    out = attend(module.layer_idx, q, k, v, scale=scale, window=sliding_window(module.config, module.layer_idx))
    return out[None], None


AttentionInterface.register(ATTENTION, _attention)


class ModuleWeights:
    """The module's parameters; see `Weights`. For another dtype, autocast if `trainable`, else a copy in that dtype.

    With `copy`, the weights are always a copy. The module's attention is replaced: from then on only `hidden` can call it.
    """

    def __init__(self, module: Any, dtype: torch.dtype, trainable: bool = False, copy: bool = False) -> None:
        for kind in getattr(module.config, "layer_types", None) or ():
            if kind not in KNOWN_LAYERS:
                raise UserError(f"models with {kind} layers are not supported")
        module.config._attn_implementation = ATTENTION  # in all threads: sampler and trainer share the module
        output = module.get_output_embeddings()  # not the copy's: a head in bfloat16 costs accuracy
        own, bias = output.weight.dtype, getattr(output, "bias", None)
        self.leaves: list[Tensor] = []
        if trainable:
            self.module = module
            self.leaves = [p for p in module.parameters() if p.requires_grad]
            self.head = output.weight, bias
        else:
            self.module = deepcopy(module).to(dtype) if copy or own != dtype else module
            # Cast to float32 once, not at every step of the sampler.
            self.head = output.weight.float(), bias
        if copy:
            self.head = self.head[0].detach().clone(), None if bias is None else bias.detach().clone()
        self.cast = dtype if trainable and own != dtype else None

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Return final hidden states [T, H]; see `Weights`."""
        with self._autocast():
            out = self.module.base_model(
                input_ids=ids_T[None],
                position_ids=positions_T[None],
                attention_mask=None,
                use_cache=False,
                attend=attend,
            )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def _autocast(self) -> AbstractContextManager[object]:
        if self.cast is None:
            return nullcontext()
        return torch.autocast(self.head[0].device.type, dtype=self.cast)

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients to the parameters, which are the leaves."""
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
