"""A causal language model: its module, its chat template, and its weights as sampler and trainer need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rethink.models.chat import Chat
from rethink.models.device import prefers_bfloat16
from rethink.models.forward import FusedWeights, ModuleWeights, PlainWeights, Weights
from rethink.models.forward.embedding import trained_tower
from rethink.models.forward.fused import Layers
from rethink.models.forward.gradient_checkpointing import enable_checkpointing
from rethink.models.positions import max_positions
from rethink.models.vision import ImageVectors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class LanguageModel:
    """The module and its chat, as `load_model` opens them from `path`.

    A `fused` model has Llama's layers and uses our faster forward pass. A `plain` one keeps its own attention and cache
    (`PlainWeights`); it `pads_left` if padding before a prompt changes nothing that it computes. A model with a LoRA
    adapter has a `base`: the same frozen weights without the adapter. A vision-language model has `image_vectors`,
    from its tower. `head_dtype` is the setting of that name, the dtype in which the output layer multiplies.
    """

    module: Any
    chat: Chat
    fused: bool = False
    plain: bool = False
    pads_left: bool = False
    base: LanguageModel | None = None
    path: str = ""
    gradient_checkpointing: bool = False
    head_dtype: str = "auto"
    image_vectors: ImageVectors | None = None

    @property
    def config(self) -> Any:
        """The configuration of the language model: for a vision-language model, of its text part."""
        return self.module.config.get_text_config()

    @property
    def path_name(self) -> str:
        """The forward pass that the model runs through, as docs/models.md names it."""
        return "fused" if self.fused else "plain" if self.plain else "modules"

    @property
    def n_embeddings(self) -> int:
        """The number of token ids that the model knows: the rows of its embedding."""
        return int(self.module.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        return self.module.get_output_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.get_output_embeddings().weight.dtype

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model has positions for; None if its config does not say."""
        return max_positions(self.config)

    @property
    def hidden_size(self) -> int:
        """The size H of a hidden state."""
        return int(self.module.get_output_embeddings().weight.shape[1])

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward passes from now on instead of keeping them.

        Raise UserError for a model without layers that can be checkpointed."""
        runs_modules = not self.fused or trained_tower(self.module)
        if runs_modules and not self.gradient_checkpointing:
            enable_checkpointing(self.module)
        self.gradient_checkpointing = True

    def weights_changed(self) -> None:
        """Drop the vectors of images that a trained tower has computed. Call this when the weights have changed."""
        if self.image_vectors is not None and trained_tower(self.module):
            self.image_vectors.forget()

    def weights(
        self,
        dtype: torch.dtype | None = None,
        *,
        trainable: bool = False,
        copy: bool = False,
        layers: Layers = "kept",
    ) -> Weights:
        """Return the current weights, with matrices in this dtype (None: the model's own).

        With `copy`, every tensor is a copy. Otherwise some are the parameters themselves, so the result is valid until
        these change. A fused model rearranges its layers, which takes their memory once more unless they are made "on
        demand" or "taken" (see `Layers`); this has no effect on other models.
        """
        dtype = dtype or self.dtype
        head = pick_head_dtype(self.head_dtype, dtype, self.device)
        if self.fused:
            return FusedWeights(
                self.module, dtype, trainable, copy, self.gradient_checkpointing, self.image_vectors, head, layers
            )
        form = PlainWeights if self.plain else ModuleWeights
        return form(self.module, dtype, trainable, copy, self.image_vectors, head)


def pick_dtype(setting: str, model: LanguageModel, device: torch.device | None = None) -> torch.dtype:
    """Return the dtype for a recipe's setting: "auto", "none" (the model's own), "float32" or "bfloat16".

    `device` is where the model will run, if it is not there yet."""
    if setting == "auto":
        return torch.bfloat16 if prefers_bfloat16(device or model.device, model.hidden_size) else model.dtype
    return model.dtype if setting == "none" else DTYPES[setting]


def pick_head_dtype(setting: str, matrices: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which the output layer multiplies: "auto" is that of the other matrices, but float32 on a CPU,
    which has no product of bfloat16 factors with sums in float32."""
    if setting != "auto":
        return DTYPES[setting]
    return torch.float32 if device.type == "cpu" else matrices
