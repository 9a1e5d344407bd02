"""An output layer whose logits exist for a few tokens at a time: slices of tokens, and the backward pass through it."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.models.forward.weights import Head, logits


def chunks(n: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover n places."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


class HeadGradients:
    """Gradients of hidden states [T, H], and of an output layer's weight [V, H] and bias [V], from those of its logits.

    They are added up in float32, chunk by chunk. A frozen weight (`needs_weight` False) has none: it would be as large as
    the layer."""

    def __init__(self, hidden_T_H: Tensor, head: Head, needs_weight: bool) -> None:
        weight_V_H, bias_V, _ = self._head = head
        self._hidden_T_H = hidden_T_H
        self._weight_V_H = weight_V_H.float()
        self._dtype = weight_V_H.dtype
        self._bias_V = bias_V
        self._grad_hidden = torch.empty_like(hidden_T_H)
        self._grad_weight = torch.zeros_like(self._weight_V_H) if needs_weight else None
        self._grad_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)

    def add(self, part: slice, slope_T_V: Tensor) -> None:
        """Add the gradient of a chunk of tokens with respect to their logits before the temperature."""
        if self._head.softcap is not None:
            # The slope of softcap * tanh(z / softcap) is 1 - tanh(z / softcap)^2.
            tanh_T_V = logits(self._hidden_T_H[part], self._head).div_(self._head.softcap)
            slope_T_V = slope_T_V * tanh_T_V.square_().neg_().add_(1)
        self._grad_hidden[part] = (slope_T_V @ self._weight_V_H).to(self._grad_hidden.dtype)
        if self._grad_weight is not None:
            self._grad_weight.addmm_(slope_T_V.T, self._hidden_T_H[part].float())
        if self._grad_bias is not None:
            self._grad_bias += slope_T_V.sum(0)

    def found(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of hidden states, weight and bias, in their dtypes."""
        weight = None if self._grad_weight is None else self._grad_weight.to(self._dtype)
        if self._grad_bias is None or self._bias_V is None:
            return self._grad_hidden, weight, None
        return self._grad_hidden, weight, self._grad_bias.to(self._bias_V.dtype)
