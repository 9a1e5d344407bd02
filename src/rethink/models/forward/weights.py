"""The interface through which sampler and trainer use a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rethink.models.forward.attention import AttentionFn
from rethink.models.forward.embedding import ImageSource


class Head(NamedTuple):
    """The output layer: weight [V, H], bias [V], and the limit of its logits: softcap * tanh(logits / softcap)."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None = None


class Weights(Protocol):
    """A model's current weights, in the form that its forward pass needs.

    Gradients are taken with respect to `leaves`, in any number of threads. `backward_to_parameters` then propagates their
    sum to the optimizer's parameters.
    """

    image_vectors: ImageSource | None
    """The vectors of images, for a vision-language model."""

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors to differentiate with respect to; empty if the weights are not trained."""
        ...

    @property
    def head(self) -> Head:
        """The output layer."""
        ...

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Return the final hidden states [T, H] of a flat sequence; `attend` decides the attention pattern. No dropout."""
        ...

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the leaves' gradients to those of the parameters."""
        ...


def logits(hidden: Tensor, head: Head) -> Tensor:
    """Return logits [..., V] in float32, because a bfloat16 head costs accuracy."""
    weight, bias, softcap = head
    found = torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
    return found if softcap is None else found.div_(softcap).tanh_() * softcap
