"""Defaults that depend on the device: precision, the size of the sampler's cache, and the C library's memory settings."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

MIN_HIDDEN_SIZE = 256
"""On a CPU, models with a smaller hidden size stay in float32, because they spend little time in matrix products."""

GPU_CACHE_FRAC = 1 / 3
FREE_CACHE_FRAC = 0.7
"""Fraction of free GPU memory for keys and values; the rest is for logits and attention scores."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags of native bfloat16 products. Emulated ones were measured to be seven times slower than float32."""


def prefers_bfloat16(device: torch.device, hidden_size: int) -> bool:
    """Return whether `dtype = "auto"` means bfloat16 on this device, for a model with this hidden size.

    It does on a GPU that supports bfloat16, and on a CPU with bfloat16 instructions if the hidden size is at least
    MIN_HIDDEN_SIZE. Nothing is timed: a repeated run always gets the same precision.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and hidden_size >= MIN_HIDDEN_SIZE and bool(_cpu_flags() & BFLOAT16_FLAGS)


def cache_bytes(device: torch.device) -> int:
    """Return the default size of the sampler's KV cache: 1 GiB on a CPU, GPU_CACHE_FRAC of a GPU's memory.

    On a GPU, at most FREE_CACHE_FRAC of the free memory (what torch holds but does not use counts as free). Below that
    limit the size does not depend on other programs, so a repeated run samples the same batches.
    """
    if device.type != "cuda":
        return 2**30
    free, total = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(GPU_CACHE_FRAC * total, FREE_CACHE_FRAC * (free + idle)))


@cache
def _cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags on Linux; an empty set where they cannot be read."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


@cache
def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of returning them to the system: training soon needs them again.

    The system clears each page that it hands out, which took a tenth of an update, more on a virtual machine. The process
    holds its peak memory until it ends.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            for option, value in ((-1, 2**31 - 1), (-3, 2**30), (-2, 2**26)):  # trim threshold, mmap threshold, top pad
                mallopt(option, value)


def return_freed_memory() -> None:
    """Return the free pages of this process to the system, also those that `keep_freed_memory` has kept so far."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
