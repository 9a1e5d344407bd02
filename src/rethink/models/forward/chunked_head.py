"""An output layer whose logits exist for a few tokens at a time: slices of tokens, and the backward pass through it."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.models.forward.weights import Head, logits, product_in_float32


def chunks(n: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover n places."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


class HeadGradients:
    """Gradients of hidden states [T, H], and of an output layer's weight [V, H] and bias [V], from those of its logits.

    They are added up in float32, chunk by chunk. A frozen weight (`needs_weight` False) has none: it would be as large as
    the layer. `head` has its weight in the dtype of the products, to compute logits again."""

    def __init__(self, hidden_T_H: Tensor, head: Head, needs_weight: bool) -> None:
        self.head = head.converted()
        self._hidden_T_H = hidden_T_H
        self._dtype = head.weight.dtype
        self._grad_hidden = torch.empty_like(hidden_T_H)
        self._grad_weight = torch.zeros_like(head.weight, dtype=torch.float32) if needs_weight else None
        self._grad_bias = None if head.bias is None else torch.zeros_like(head.bias, dtype=torch.float32)

    def add(self, part: slice, slope_T_V: Tensor) -> None:
        """Add the gradient of a chunk of tokens with respect to their logits before the temperature."""
        head, hidden_T_H = self.head, self._hidden_T_H[part]
        if head.softcap is not None:
            # The slope of softcap * tanh(z / softcap) is 1 - tanh(z / softcap)^2.
            tanh_T_V = logits(hidden_T_H, head).div_(head.softcap)
            slope_T_V = slope_T_V * tanh_T_V.square_().neg_().add_(1)
        self._grad_hidden[part] = product_in_float32(slope_T_V, head.weight, head.dtype).to(self._grad_hidden.dtype)
        if self._grad_weight is not None and head.dtype == torch.float32:
            self._grad_weight.addmm_(slope_T_V.T, hidden_T_H.float())
        elif self._grad_weight is not None:
            self._grad_weight += product_in_float32(slope_T_V.T, hidden_T_H, head.dtype)
        if self._grad_bias is not None:
            self._grad_bias += slope_T_V.sum(0)

    def found(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of hidden states, weight and bias, in their dtypes."""
        weight = None if self._grad_weight is None else self._grad_weight.to(self._dtype)
        if self._grad_bias is None or self.head.bias is None:
            return self._grad_hidden, weight, None
        return self._grad_hidden, weight, self._grad_bias.to(self.head.bias.dtype)
