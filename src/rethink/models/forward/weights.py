"""The interface through which sampler and trainer use a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rethink.models.forward.attention import AttentionFn


class Weights(Protocol):
    """A model's current weights, in the form that its forward pass needs.

    Gradients are taken with respect to `leaves`, in any number of threads. `backward_to_parameters` then propagates their
    sum to the optimizer's parameters.
    """

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors to differentiate with respect to; empty if the weights are not trained."""
        ...

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, H] and bias [V] of the output layer."""
        ...

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Return the final hidden states [T, H] of a flat sequence; `attend` decides the attention pattern. No dropout."""
        ...

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the leaves' gradients to those of the parameters."""
        ...


def logits(hidden: Tensor, head: tuple[Tensor, Tensor | None]) -> Tensor:
    """Return logits [..., V] in float32, because a bfloat16 head costs accuracy."""
    weight, bias = head
    return torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
