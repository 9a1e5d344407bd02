"""Matrices that oneDNN has packed for its products on a CPU, for a sampler that holds its weights in no other form.

A product of 2 to 128 rows and a large float32 matrix mostly takes 0.6 to 0.8 of the time that it takes from a plain one
(docs/performance.md). A packed matrix has no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MIN_NUMBERS = 2**18
"""Smaller matrices are not packed: they stay in the processor's caches, where the call itself takes most of the time."""

FEW_ROWS = 32
"""The number of rows that matrices are packed for; products of any number of rows are right."""

_OPERATIONS: Any = torch.ops.mkldnn


def pack(weight_I_H: Tensor) -> Tensor:
    """Return the matrix in oneDNN's form if products get faster by it, else the matrix."""
    plain = weight_I_H.detach()
    if not _can_be_packed(plain):
        return plain
    found: Tensor = _OPERATIONS._reorder_linear_weight(plain.contiguous(), FEW_ROWS)
    return found


def _can_be_packed(weight: Tensor) -> bool:
    is_large = weight.ndim == 2 and weight.numel() >= MIN_NUMBERS
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    names = ("_reorder_linear_weight", "_linear_pointwise")  # not part of torch's stable interface
    return (
        is_large
        and on_cpu
        and torch.backends.mkldnn.is_available()
        and all(hasattr(_OPERATIONS, name) for name in names)
    )


def packed_product(x_T_H: Tensor, packed_I_H: Tensor, bias_I: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for a packed weight."""
    found: Tensor = _OPERATIONS._linear_pointwise(x_T_H.contiguous(), packed_I_H, bias_I, "none", [], "")
    return found
