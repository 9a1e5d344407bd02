"""Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685) as `peft` puts them into a module: W x becomes W x + scale * B A x.

Every function also takes a layer without an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """A [r, in] and B [out, r], the scale in B."""

    a: Tensor
    b: Tensor


def base_layer(linear: Any) -> Any:
    """Return the layer under the adapter."""
    return getattr(linear, "base_layer", linear)


def low_rank(linear: Any) -> LowRank | None:
    """Return what the adapter adds; None without one."""
    if base_layer(linear) is linear:
        return None
    (name,) = linear.active_adapters
    return LowRank(linear.lora_A[name].weight, linear.lora_B[name].weight * linear.scaling[name])


def merged_weight(linear: Any, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Return the weight with what the adapter adds to it, in float32, and as the layer keeps it: [out, in], in GPT-2's
    layers [in, out]. Without an adapter it is the weight itself. `whole` gathers what is in shards."""
    added = low_rank(linear)
    weight = whole(base_layer(linear).weight)
    if added is None:
        return weight
    a, b = whole(added.a), whole(added.b)
    if linear.fan_in_fan_out:
        return torch.addmm(weight.float(), a.T, b.T)
    return torch.addmm(weight.float(), b, a)


def concat_adapters(linears: Sequence[Any], reorder: Sequence[Callable[[Tensor], Tensor]]) -> LowRank | None:
    """Return the adapters of layers that are computed as one product, as one adapter; None if none has one.

    Their A lie below one another, and their B, each reordered as its layer's rows are, in blocks along a diagonal.
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
