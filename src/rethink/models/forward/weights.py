"""What sampler and trainer ask of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rethink.models.forward.attention import AttentionFn


class Weights(Protocol):
    """A model's weights at one moment, in the form that a forward pass wants them.

    Gradients are taken with respect to `leaves`, in any number of threads; `backward_to_parameters` then takes their sum
    to the parameters that the optimizer knows.
    """

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are taken to; none if the weights are not trained."""
        ...

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, H] and bias [V] of the output layer."""
        ...

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Final hidden states [T, H] of a flat sequence. `attend` decides the attention pattern. No dropout."""
        ...

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Add gradients of the leaves to those of the parameters."""
        ...


def logits(hidden: Tensor, head: tuple[Tensor, Tensor | None]) -> Tensor:
    """Logits [..., V] in float32: a bfloat16 head would cost accuracy."""
    weight, bias = head
    return torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
