"""Reading the LoRA layers (Hu et al., arXiv 2106.09685) that `peft` puts into a module: W x becomes W x + scale * B A x.

Every function also accepts a layer without an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """A [r, in] and B [out, r], with the scale multiplied into B."""

    a: Tensor
    b: Tensor


def base_layer(linear: Any) -> Any:
    """Return the layer under the adapter."""
    return getattr(linear, "base_layer", linear)


def low_rank(linear: Any) -> LowRank | None:
    """Return the layer's adapter; None without one."""
    if base_layer(linear) is linear:
        return None
    (name,) = linear.active_adapters
    return LowRank(linear.lora_A[name].weight, linear.lora_B[name].weight * linear.scaling[name])


def merged_weight(linear: Any, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Return the weight with the adapter merged in, in float32; without an adapter, the weight itself.

    The layout is the layer's: [out, in], or [in, out] in GPT-2's layers. `whole` gathers a sharded tensor."""
    added = low_rank(linear)
    weight = whole(base_layer(linear).weight)
    if added is None:
        return weight
    a, b = whole(added.a), whole(added.b)
    if linear.fan_in_fan_out:
        return torch.addmm(weight.float(), a.T, b.T)
    return torch.addmm(weight.float(), b, a)


def concat_adapters(linears: Sequence[Any], reorder: Sequence[Callable[[Tensor], Tensor]]) -> LowRank | None:
    """Return one adapter for layers that are computed as one product; None if no layer has an adapter.

    The A are stacked. The B, each reordered like its layer's rows, form a block-diagonal matrix.
    """
    a_parts: list[Tensor] = []
    b_parts: list[Tensor] = []
    for linear, reordered in zip(linears, reorder, strict=True):
        adapter = low_rank(linear)
        if adapter is None:
            weight = base_layer(linear).weight
            b_parts.append(weight.new_zeros(len(weight), 0).float())
        else:
            a_parts.append(adapter.a)
            b_parts.append(reordered(adapter.b))
    return LowRank(torch.cat(a_parts), torch.block_diag(*b_parts)) if a_parts else None
