"""A causal language model with its chat, and the form in which sampler and trainer want its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rethink.models.chat import Chat
from rethink.models.device import prefers_bfloat16
from rethink.models.forward import FusedWeights, ModuleWeights, Weights
from rethink.models.forward.checkpointing import enable_checkpointing

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class LanguageModel:
    """The module and its chat, as `load_model` opens them from `path`.

    A `fused` model has Llama's layers, for which there is a faster forward pass than its modules. One with an adapter
    (LoRA) has its `base`, the same frozen weights without it.
    """

    module: Any
    chat: Chat
    fused: bool = False
    base: LanguageModel | None = None
    path: str = ""
    gradient_checkpointing: bool = False

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def device(self) -> torch.device:
        return self.module.get_output_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.get_output_embeddings().weight.dtype

    @property
    def max_positions(self) -> int | None:
        """Return the longest sequence the model has positions for, where its config says so."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def hidden_size(self) -> int:
        """The size H of a hidden state."""
        return int(self.module.get_output_embeddings().weight.shape[1])

    def enable_gradient_checkpointing(self) -> None:
        """Let backward passes compute activations again, from now on, instead of keeping them. Raise UserError for a model
        without layers for that."""
        if not self.fused and not self.gradient_checkpointing:
            enable_checkpointing(self.module)
        self.gradient_checkpointing = True

    def weights(self, dtype: torch.dtype | None = None, *, trainable: bool = False, copy: bool = False) -> Weights:
        """Return the present weights, with matrices in this dtype (None: the model's own).

        Without `trainable` and `copy`, some are copies and some the parameters themselves: good until these change. With
        `copy` all are copies.
        """
        dtype = dtype or self.dtype
        if self.fused:
            return FusedWeights(self.module, dtype, trainable, copy, self.gradient_checkpointing)
        return ModuleWeights(self.module, dtype, trainable, copy)


def pick_dtype(setting: str, model: LanguageModel, device: torch.device | None = None) -> torch.dtype:
    """Return the dtype that a recipe asks for by name: "auto", "none" (the model's own), "float32" or "bfloat16". `device`
    is where the model is to be, if it is not there yet."""
    if setting == "auto":
        return torch.bfloat16 if prefers_bfloat16(device or model.device, model.hidden_size) else model.dtype
    return model.dtype if setting == "none" else DTYPES[setting]
