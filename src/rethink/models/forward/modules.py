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
from rethink.models.forward.attention import CHUNKED, AttentionFn, Variant, sliding_window
from rethink.models.forward.embedding import ImageSource, body, embed_images
from rethink.models.forward.head import logit_scale, logit_softcap
from rethink.models.forward.weights import Head

ATTENTION = "rethink"
"""The name under which `transformers` knows our attention."""

KNOWN_LAYERS = {"full_attention", "sliding_attention", CHUNKED}

UNKNOWN = ("position_bias", "indices", "block_indices", "sinks")
"""Arguments of attention functions that change the result and that ours does not have."""


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attend: AttentionFn | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    flat_positions: Tensor | None = None,
    image_T: Tensor | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Return the attention [1, T, A, D] for queries [1, A, T, D] of one flat sequence."""
    if attend is None:
        raise UserError("models whose attention layers do not pass on keyword arguments are not supported")
    for name in UNKNOWN:
        if other.get(name) is not None:
            raise UserError(f"models whose attention has {name} are not supported")
    config, layer = module.config, module.layer_idx
    kinds = getattr(config, "layer_types", None)
    variant = Variant(softcap, s_aux, bool(kinds and kinds[layer] == CHUNKED), image_T)
    if getattr(module, "attn_temperature_tuning", False) and not module.use_rope:
        query = _retuned(module, query, flat_positions)
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    out = attend(layer, q, k, v, scale=scale, window=sliding_window(config, layer), variant=variant)
    return out[None], None


def _retuned(module: Any, query: Tensor, positions_T: Any) -> Tensor:
    """Return the queries that Llama 4's layers without rotary positions would have in the row.

    They scale a query by its index in the sequence, which here is the flat one."""

    def factor(index_T: Tensor) -> Tensor:
        steps_T = torch.floor((index_T.float() + 1) / module.floor_scale)
        return torch.log1p(steps_T) * module.attn_scale + 1

    ratio_T = factor(positions_T) / factor(torch.arange(len(positions_T), device=query.device))
    return (query * ratio_T[:, None]).to(query.dtype)


def own_attention(module: Any) -> str:
    """Return the name of the fastest attention of `transformers` that the module supports."""
    decoder = module.get_decoder() if hasattr(module, "get_decoder") else module
    return "sdpa" if module._supports_sdpa and getattr(decoder, "_supports_sdpa", True) else "eager"


AttentionInterface.register(ATTENTION, _attention)


class ModuleWeights:
    """The module's parameters; see `Weights`. For another dtype, autocast if `trainable`, else a copy in that dtype.

    With `copy`, the weights are always a copy. The module's attention is replaced: from then on only `hidden` can call it.
    `image_vectors` has the vectors of images, for a vision-language model.
    """

    def __init__(
        self,
        module: Any,
        dtype: torch.dtype,
        trainable: bool = False,
        copy: bool = False,
        image_vectors: ImageSource | None = None,
        head_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.image_vectors = image_vectors
        self._choose_attention(module)
        output = module.get_output_embeddings()  # not the copy's, which has another dtype
        own, bias = output.weight.dtype, getattr(output, "bias", None)
        self.scale, softcap = logit_scale(module), logit_softcap(module)
        if self.scale != 1 and bias is not None:
            raise UserError("models that scale logits of an output layer with a bias are not supported")
        self.leaves: list[Tensor] = []
        if trainable:
            self.module = module
            self.leaves = [p for p in module.parameters() if p.requires_grad]
            self.head = Head(output.weight, bias, softcap, head_dtype)
        else:
            self.module = deepcopy(module).to(dtype) if copy or own != dtype else module
            # Converted once, not at every step of the sampler.
            self.head = Head(output.weight, bias, softcap, head_dtype).converted()
        if copy:
            own_bias = None if bias is None else bias.detach().clone()
            self.head = self.head._replace(weight=self.head.weight.detach().clone(), bias=own_bias)
        self.cast = dtype if trainable and own != dtype else None

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Return final hidden states [T, H]; see `Weights`."""
        inner = body(self.module)
        given: dict[str, Any] = {"input_ids": ids_T[None], "position_ids": positions_T[None]}
        embedded = embed_images(ids_T, inner.get_input_embeddings(), self.image_vectors, attend)
        if embedded is not None:
            given = {"inputs_embeds": embedded.x_T_H[None], "position_ids": positions_T[None]}
            if embedded.offsets_3_T is not None:
                given["position_ids"] = (positions_T + embedded.offsets_3_T)[:, None]
            if embedded.deep:
                given |= {"visual_pos_masks": embedded.mask_T[None], "deepstack_visual_embeds": embedded.deep}
            if embedded.image_T is not None:
                given["image_T"] = embedded.image_T
        with self._autocast():
            out = inner(
                **given,
                attention_mask=None,
                use_cache=False,
                attend=attend,
                flat_positions=positions_T,
            )
        return self._scaled(out.last_hidden_state[0])

    def _choose_attention(self, module: Any) -> None:
        """Replace the module's attention in all threads: sampler and trainer share the module."""
        for kind in getattr(module.config.get_text_config(), "layer_types", None) or ():
            if kind not in KNOWN_LAYERS:
                raise UserError(f"models with {kind} layers are not supported")
        module.config.get_text_config()._attn_implementation = ATTENTION

    def _scaled(self, hidden: Tensor) -> Tensor:
        """Return the hidden states times the scale of the logits: the head is linear.

        In float32, because the scale need not be a power of 2."""
        return hidden if self.scale == 1 else hidden.float() * self.scale

    def _autocast(self) -> AbstractContextManager[object]:
        if self.cast is None:
            return nullcontext()
        return torch.autocast(self.head.weight.device.type, dtype=self.cast)

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients to the parameters, which are the leaves."""
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            if gradient is not None:
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
