"""The interface through which sampler and trainer use a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rethink.models.forward.attention import AttentionFn
from rethink.models.forward.embedding import ImageSource


class Head(NamedTuple):
    """The output layer: weight [V, H], bias [V], and the limit of its logits: softcap * tanh(logits / softcap).

    `dtype` is that of the factors of its products; sums, and so logits, are float32 for every dtype."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None = None
    dtype: torch.dtype = torch.float32

    def converted(self) -> Head:
        """Return the head with its weight in the dtype of the products, so that several products convert it once."""
        return self._replace(weight=self.weight.to(self.dtype))


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
    """Return logits [..., V] in float32: rounded to bfloat16 they would be multiples of 1/8 near 20, and change samples."""
    found = product_in_float32(hidden.flatten(0, -2), head.weight.T, head.dtype).unflatten(0, hidden.shape[:-1])
    if head.bias is not None:
        found += head.bias.float()
    return found if head.softcap is None else found.div_(head.softcap).tanh_() * head.softcap


def product_in_float32(a_N_K: Tensor, b_K_M: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the product [N, M] of two matrices whose entries are rounded to `dtype`, with sums and results in float32.

    CPUs have no such product of bfloat16 factors, so there the rounded factors are multiplied in float32: the results are
    those of a GPU, but the product is no faster."""
    a_N_K, b_K_M = a_N_K.to(dtype), b_K_M.to(dtype)
    if dtype == torch.float32 or a_N_K.device.type == "cpu":
        return a_N_K.float() @ b_K_M.float()
    return torch.mm(a_N_K, b_K_M, out_dtype=torch.float32)
