"""Find tables of logits that a graph keeps without autograd's knowledge, so that no hook on saved tensors sees them."""

from __future__ import annotations

import gc
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import Tensor

OF_THE_PROGRAM = (type, ModuleType, CodeType, FrameType, FunctionType)


def kept_tables(value: Tensor, width: int) -> list[int]:
    """Return the sizes of all tables [*, width] that the last node of a value's graph has as attributes, or in objects that
    these refer to, but for those that need gradients."""
    waiting: list[Any] = list(vars(value.grad_fn).values())
    seen: set[int] = set()
    found: list[int] = []
    while waiting:
        x = waiting.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            found += [x.numel()] * (x.ndim == 2 and x.shape[1] == width)
        elif not isinstance(x, OF_THE_PROGRAM):
            waiting += gc.get_referents(x)
    return sorted(found)
