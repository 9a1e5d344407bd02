"""What depends on the machine and not on the model: where bfloat16 pays, the sampler's memory, and memory that is kept."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

MIN_HIDDEN_SIZE = 256
"""Models with smaller hidden states spend their time elsewhere: on a CPU they stay in float32."""

GPU_CACHE_FRAC = 1 / 3
FREE_CACHE_FRAC = 0.7
"""Beside keys and values a step needs memory for its logits and attention's scores."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processors that multiply bfloat16 directly; without it, it is emulated, and measured seven times slower than float32."""


def prefers_bfloat16(device: torch.device, hidden_size: int) -> bool:
    """Return whether `dtype = "auto"` means bfloat16 on this device, for a model with this hidden size.

    It does on a GPU that supports bfloat16, and on a CPU with bfloat16 instructions if the hidden size is at least
    MIN_HIDDEN_SIZE. Nothing is timed: a repeated run always gets the same precision.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and hidden_size >= MIN_HIDDEN_SIZE and bool(_cpu_flags() & BFLOAT16_FLAGS)


def cache_bytes(device: torch.device) -> int:
    """Return what the sampler's keys and values may take by default: 1 GiB on a CPU, GPU_CACHE_FRAC of a GPU's memory.

    That does not depend on what else is on the GPU, so that a repeated run samples the same rows at a time, unless it would
    not fit: then it is FREE_CACHE_FRAC of what is free, to the system or to torch.
    """
    if device.type != "cuda":
        return 2**30
    free, total = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(GPU_CACHE_FRAC * total, FREE_CACHE_FRAC * (free + idle)))


@cache
def _cpu_flags() -> frozenset[str]:
    """Return what the processor says that it can do (Linux); nothing where that cannot be read."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


@cache
def keep_freed_memory() -> None:
    """Tell the C library (glibc) not to give large freed blocks back to the system, which training asks for again at once.

    Pages that come from the system must be cleared first: that took a tenth of an update, more on a virtual machine. The
    process keeps the most that it ever needed, until it ends.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            for option, value in ((-1, 2**31 - 1), (-3, 2**30), (-2, 2**26)):  # trim threshold, mmap threshold, top pad
                mallopt(option, value)
