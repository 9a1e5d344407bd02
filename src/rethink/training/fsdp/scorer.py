"""A model whose weights are sharded over all ranks, layer by layer, and gathered in a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from rethink.models.forward import ModuleWeights, Weights
from rethink.models.forward.embedding import ImageSource, decoder_layers, tower_parameters
from rethink.models.forward.gradient_checkpointing import enable_checkpointing
from rethink.settings import Training


class Scorer(torch.nn.Module):
    """A module whose `forward` calls a function of the module's weights, such as the whole pass from ids to log-probs: FSDP
    gathers weights only during a `forward`."""

    def __init__(
        self,
        module: torch.nn.Module,
        dtype: torch.dtype,
        settings: Training,
        head_dtype: torch.dtype = torch.float32,
        image_vectors: ImageSource | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.image_vectors = image_vectors
        self.dtype = dtype
        self.head_dtype = head_dtype
        self.chunk_tokens = settings.chunk_tokens
        self._is_running = False
        if settings.gradient_checkpointing:
            enable_checkpointing(module)

    def weights(self) -> ModuleWeights:
        return ModuleWeights(
            self.module, self.dtype, True, image_vectors=self.image_vectors, head_dtype=self.head_dtype
        )

    def forward(self, use: Callable[[Weights], Any]) -> Any:
        """Return what the function returns."""
        self._is_running = True
        try:
            return use(self.weights())
        finally:
            self._is_running = False

    def run(self, use: Callable[[Weights], Any]) -> Any:
        """Return what the function returns, in a `forward`, or within the one that is running."""
        return use(self.weights()) if self._is_running else self(use)


def shard(scorer: Scorer) -> None:
    """Shard every layer, and then the other weights, over all ranks. A vision tower stays whole on each rank: it is frozen
    and small, and runs whenever a rank needs the vectors of an image.

    Layers are gathered in the dtype of their products. Embedding, last norm and head are gathered in float32, even from a
    frozen bfloat16 base: trained ones keep small steps. Gradients are summed in float32 and not averaged, because the
    losses of micro-batches are shares of one sum.
    """
    whole = set(tower_parameters(scorer.module))
    layer_policy = MixedPrecisionPolicy(scorer.dtype, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(scorer.module):
        fully_shard(layer, mp_policy=layer_policy)
    root_policy = MixedPrecisionPolicy(torch.float32, cast_forward_inputs=False)
    fully_shard(scorer, mp_policy=root_policy, ignored_params=whole)
    for submodule in scorer.modules():
        if isinstance(submodule, FSDPModule):
            submodule.set_gradient_divide_factor(1.0)
            submodule.set_force_sum_reduction_for_comms(True)
