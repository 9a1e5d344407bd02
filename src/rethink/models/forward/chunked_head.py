"""An output layer whose logits exist for a few tokens at a time: values computed from them, and the gradients.

Logits are as large as many layers' activations, so they are not kept for the backward pass. Computing all of them again, it
would need four products of tokens and layer in all. There are fewer:

* with a frozen layer (LoRA), the forward pass computes the slopes of the values with respect to the hidden states, and the
  backward pass only scales them by the loss's gradients: two products;
* otherwise the last chunk stays until the backward pass, which begins with it: three products for its tokens. It takes no
  memory that the forward pass did not just take, because only the loss is computed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rethink.models.forward.weights import Head, logits, product_in_float32


class FromLogits(Protocol):
    """Values [T] computed from the logits of a chunk, after soft cap and temperature. It owns the logits."""

    @property
    def values(self) -> tuple[Tensor, ...]: ...

    def slope(self, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the gradient with respect to the logits, as a table [T, V] and a factor [T] of its rows.

        `grads` are those of the values that have one. It is called at most once, and may overwrite the table."""
        ...


Read = Callable[[Tensor, slice], FromLogits]
"""Computes values from a chunk's logits [T, V]; the slice says which tokens it has."""


def chunked_head(
    hidden_T_H: Tensor, head: Head, temperature_T: Tensor, read: Read, n_slopes: int, chunk: int
) -> tuple[Tensor, ...]:
    """Return what `read` computes from the logits, each [T] in float32. The first `n_slopes` values have gradients."""
    found: tuple[Tensor, ...] = ChunkedHead.apply(hidden_T_H, *head, temperature_T, read, n_slopes, chunk)
    return found


class ChunkedHead(torch.autograd.Function):
    """See `chunked_head`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_T_H: Tensor,
        weight_V_H: Tensor,
        bias_V: Tensor | None,
        softcap: float | None,
        dtype: torch.dtype,
        temperature_T: Tensor,
        read: Read,
        n_slopes: int,
        chunk: int,
    ) -> tuple[Tensor, ...]:
        layer = _Layer(hidden_T_H, Head(weight_V_H, bias_V, softcap, dtype), temperature_T, read)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        is_early = needs_hidden and not (needs_weight or needs_bias) and n_slopes == 1
        gradients = HeadGradients(layer, needs_weight=False, needs_bias=False) if is_early else None
        parts = _chunks(len(hidden_T_H), chunk)
        found: list[tuple[Tensor, ...]] = []
        last: _Chunk | None = None
        for part in parts:
            last = None  # free it before the next chunk
            last = layer.chunk(part, with_slope=is_early or part == parts[-1])
            found.append(last.read.values)
            if gradients is not None:
                gradients.add(last, [torch.ones_like(last.read.values[0])])
        if gradients is None:
            ctx.save_for_backward(hidden_T_H, weight_V_H, bias_V, temperature_T)
            ctx.last = last
        else:
            ctx.save_for_backward(gradients.hidden_T_H)
        ctx.is_early, ctx.of_hidden = is_early, hidden_T_H.dtype
        ctx.of_head, ctx.read, ctx.n_slopes, ctx.parts = (softcap, dtype), read, n_slopes, parts
        values = tuple(map(torch.cat, zip(*found, strict=True)))
        ctx.mark_non_differentiable(*values[n_slopes:])
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.is_early:
            (slope_T_H,) = ctx.saved_tensors
            return (slope_T_H * grads[0][:, None]).to(ctx.of_hidden), *[None] * 8
        hidden_T_H, weight_V_H, bias_V, temperature_T = ctx.saved_tensors
        layer = _Layer(hidden_T_H, Head(weight_V_H, bias_V, *ctx.of_head), temperature_T, ctx.read)
        gradients = HeadGradients(layer, *ctx.needs_input_grad[1:3])
        last, ctx.last = ctx.last, None
        for part in reversed(ctx.parts):
            if last is None:
                last = layer.chunk(part, with_slope=True)
            gradients.add(last, [grad[part] for grad in grads[: ctx.n_slopes]])
            last = None  # free it before the next chunk
        hidden, weight, bias = gradients.hidden_T_H, gradients.weight_V_H, gradients.bias_V
        return (
            hidden.to(ctx.of_hidden),
            None if weight is None else weight.to(weight_V_H.dtype),
            None if bias is None else bias.to(bias_V.dtype),
            *[None] * 6,
        )


def _chunks(n: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover n places; an empty one for none."""
    return [slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)]


class _Chunk(NamedTuple):
    """A chunk of tokens, and what was read from its logits. `steepness` [T, V] is the slope of the soft cap, if any."""

    part: slice
    read: FromLogits
    steepness: Tensor | None


class _Layer:
    """Hidden states [T, H] and the output layer, its weight in the dtype of the products: converted once for all chunks."""

    def __init__(self, hidden_T_H: Tensor, head: Head, temperature_T: Tensor, read: Read) -> None:
        self.hidden_T_H, self.head, self.temperature_T, self.read = hidden_T_H, head.converted(), temperature_T, read

    def chunk(self, part: slice, *, with_slope: bool) -> _Chunk:
        """Compute a chunk's logits and read them; `with_slope`, to add its gradients."""
        table_T_V, steepness = logits(self.hidden_T_H[part], self.head), None
        if with_slope and self.head.softcap is not None:
            # The slope of softcap * tanh(z / softcap) is 1 - tanh(z / softcap)^2.
            steepness = (table_T_V / self.head.softcap).square_().neg_().add_(1)
        return _Chunk(part, self.read(table_T_V.div_(self.temperature_T[part, None]), part), steepness)


class HeadGradients:
    """Gradients of hidden states [T, H], and of an output layer's weight [V, H] and bias [V], from those of its logits.

    They are added up in float32, chunk by chunk. A frozen weight (`needs_weight` False) has none: it would be as large as
    the layer. Nor has a frozen bias, which would take a pass over each table."""

    def __init__(self, layer: _Layer, needs_weight: bool, needs_bias: bool) -> None:
        self._layer, self._needs_weight = layer, needs_weight
        bias = layer.head.bias
        self.hidden_T_H = torch.empty_like(layer.hidden_T_H, dtype=torch.float32)
        self.weight_V_H: Tensor | None = None
        self.bias_V: Tensor | None = None
        if needs_bias and bias is not None:
            self.bias_V = torch.zeros_like(bias, dtype=torch.float32)

    def add(self, chunk: _Chunk, grads: Sequence[Tensor]) -> None:
        """Add the gradients of a chunk, from those of its values."""
        layer, part, dtype = self._layer, chunk.part, self._layer.head.dtype
        slope_T_V, factor_T = chunk.read.slope(grads)
        if chunk.steepness is not None:
            slope_T_V.mul_(chunk.steepness)
        factor_T = factor_T / layer.temperature_T[part]
        if self.bias_V is not None:
            self.bias_V.addmv_(slope_T_V.T, factor_T)
        slope_T_V = slope_T_V.to(dtype)
        # Rows of hidden states are scaled instead of the slope's: they are the smaller table.
        self.hidden_T_H[part] = product_in_float32(slope_T_V, layer.head.weight, dtype).mul_(factor_T[:, None])
        if not self._needs_weight:
            return
        scaled_T_H = layer.hidden_T_H[part] * factor_T[:, None]
        if self.weight_V_H is None:
            self.weight_V_H = product_in_float32(slope_T_V.T, scaled_T_H, dtype)
        elif dtype == torch.float32:
            self.weight_V_H.addmm_(slope_T_V.T, scaled_T_H)
        else:
            self.weight_V_H += product_in_float32(slope_T_V.T, scaled_T_H, dtype)
