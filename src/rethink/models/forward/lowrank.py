"""Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685) as `peft` puts them into a module: W x becomes W x + scale * B A x.

A layer without an adapter may be given as well: it is then what it is.
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
    """The layer under the adapter."""
    return getattr(linear, "base_layer", linear)


def low_rank(linear: Any) -> LowRank | None:
    """What the adapter adds; None where there is none."""
    if base_layer(linear) is linear:
        return None
    (name,) = linear.active_adapters
    return LowRank(linear.lora_A[name].weight, linear.lora_B[name].weight * linear.scaling[name])


def merged_weight(linear: Any, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """The weight with what the adapter adds to it, in float32, and as the layer keeps it: [out, in], in GPT-2's layers
    [in, out]. Without an adapter the weight itself. `whole` gathers what is in shards."""
    added = low_rank(linear)
    weight = whole(base_layer(linear).weight)
    if added is None:
        return weight
    a, b = whole(added.a), whole(added.b)
    if linear.fan_in_fan_out:
        return torch.addmm(weight.float(), a.T, b.T)
    return torch.addmm(weight.float(), b, a)


def concat_adapters(
    linears: Sequence[Any], turns: Sequence[Callable[[Tensor], Tensor]], before: Tensor
) -> LowRank | tuple[None, None]:
    """The adapters of layers that are computed as one product, as one adapter: their A below one another, times the weight
    of the norm before them [in], and their B, each turned as its layer's rows are, in blocks along a diagonal."""
    found = [low_rank(linear) for linear in linears]
    if not any(found):
        return None, None
    nothing = [base_layer(linear).weight.new_zeros(len(base_layer(linear).weight), 0).float() for linear in linears]
    blocks = [turn(x.b) if x else none for x, turn, none in zip(found, turns, nothing, strict=True)]
    return LowRank(torch.cat([x.a for x in found if x]) * before, torch.block_diag(*blocks))
