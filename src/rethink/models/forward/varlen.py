"""Attention over rows of several lengths on a GPU, without padding and without a mask: torch's `varlen_attn`.

The flat sequence has the queries of all rows one after another, so only keys and values are gathered: of each row's prompt
and reply. `fits` compares results and gradients of a few small rows with a loop before it lets a model use the kernel. If
they differ, or if the kernel refuses, a warning says why, and attention uses masks. To switch the kernel off:
`torch.backends.cuda.enable_flash_sdp(False)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

Rows = Sequence[tuple[Sequence[tuple[int, int]], int]]
"""For each row, the spans (start, length) of its keys, and the number of its queries: the last of them."""

MAX_GAP = 0.02
"""How far results may be from the loop's, as a share of their norm; bfloat16 rounds by 0.004."""

DEVICE_ERRORS: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)
"""RuntimeErrors that may pass."""
if hasattr(torch, "AcceleratorError"):
    DEVICE_ERRORS += (torch.AcceleratorError,)


class Lengths(NamedTuple):
    """Rows as the kernel wants them: the indices of all keys [S], row by row, and where each row ends [N + 1]."""

    key_S: Tensor
    query_ends: Tensor
    key_ends: Tensor
    max_queries: int
    max_keys: int


def lengths(rows: Rows, device: torch.device | str) -> Lengths:
    """Return the rows' layout on the device."""
    places: list[np.ndarray] = []
    query_ends, key_ends = [0], [0]
    for spans, n in rows:
        places += [np.arange(start, start + length) for start, length in spans]
        query_ends.append(query_ends[-1] + n)
        key_ends.append(sum(map(len, places[-len(spans) :])) + key_ends[-1])
    return Lengths(
        torch.from_numpy(np.concatenate(places)).to(device),
        torch.tensor(query_ends, dtype=torch.int32, device=device),
        torch.tensor(key_ends, dtype=torch.int32, device=device),
        int(np.diff(query_ends).max()),
        int(np.diff(key_ends).max()),
    )


def fits(q_T_A_D: Tensor, k_T_K_D: Tensor, window: int | None) -> bool:
    """Return whether the kernel can be used for these queries and keys."""
    if not q_T_A_D.is_cuda or not torch.backends.cuda.flash_sdp_enabled():
        return False
    dtype = _dtype(q_T_A_D)
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    n_heads, width = q_T_A_D.shape[1:]
    return works(q_T_A_D.device, dtype, n_heads, k_T_K_D.shape[1], width, window is not None)


def attend(
    rows: Lengths, q_T_A_D: Tensor, k_T_K_D: Tensor, v_T_K_D: Tensor, scale: float, window: int | None
) -> Tensor:
    """Return the causal attention [T, A, D] within rows; with a window, to the last `window` keys."""
    dtype, n_repeats = _dtype(q_T_A_D), q_T_A_D.shape[1] // k_T_K_D.shape[1]
    k_S_K_D, v_S_K_D = k_T_K_D[rows.key_S].to(dtype), v_T_K_D[rows.key_S].to(dtype)
    grouped: dict[str, bool] = {}
    if n_repeats > 1 and "enable_gqa" in signature(kernel()).parameters:
        grouped["enable_gqa"] = True
    elif n_repeats > 1:
        k_S_K_D, v_S_K_D = k_S_K_D.repeat_interleave(n_repeats, 1), v_S_K_D.repeat_interleave(n_repeats, 1)
    # A query sees so many keys before its own, and none after it. The last query of a row is at its last key.
    sides = (-1 if window is None else window - 1, 0)
    ends = rows.query_ends, rows.key_ends, rows.max_queries, rows.max_keys
    return kernel()(q_T_A_D.to(dtype), k_S_K_D, v_S_K_D, *ends, scale=scale, window_size=sides, **grouped)


@cache
def kernel() -> Callable[..., Tensor]:
    """Return torch's function. Raise RuntimeError if it is not there, or lacks what we need."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        raise RuntimeError("this version of torch has no such function") from None
    if not {"scale", "window_size"} <= signature(varlen_attn).parameters.keys():
        raise RuntimeError("that of this version of torch takes no scale or no window")
    return cast(Callable[..., Tensor], varlen_attn)  # its type has outputs that we do not ask for


@cache
def works(device: torch.device, dtype: torch.dtype, n_heads: int, n_keys: int, width: int, has_window: bool) -> bool:
    """Return whether the kernel gives the loop's results and gradients for heads of this shape; if not, warn.

    A device that is out of memory, or that fails, says nothing about the kernel: that error is raised, and not cached."""
    try:
        gap = _gap_to_loop(device, dtype, n_heads, n_keys, width, 17 if has_window else None)
        reason = "" if gap < MAX_GAP else f"its results differ from a loop's by {gap:.3f} of their norm"
    except DEVICE_ERRORS:
        raise
    except (RuntimeError, TypeError, ValueError) as err:
        reason = str(err).splitlines()[0]
    if reason:
        warnings.warn(
            "attention uses masks, which is slower and, where all scores are stored, needs more memory; torch's "
            f"varlen_attn cannot be used: {reason}",
            stacklevel=2,
        )
    return not reason


def _gap_to_loop(
    device: torch.device, dtype: torch.dtype, n_heads: int, n_keys: int, width: int, window: int | None
) -> float:
    """Return the largest distance of results and gradients from the loop's, as a share of the norm.

    Two prompts, and two replies to the first one, are longer and shorter than a tile of the kernel."""
    prompt, reply = (0, 130), (135, 70)
    rows: Rows = [([prompt], 130), ([(130, 5)], 5), ([prompt, reply], 70), ([prompt, (205, 3)], 3)]
    random = torch.Generator().manual_seed(0)
    # The first call may come from a sampler without gradients, or from within autocast.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        leaves, slope = [], torch.randn(208, n_heads, width, generator=random).to(device)
        for n in (n_heads, n_keys, n_keys):
            leaves.append(torch.randn(208, n, width, generator=random).to(device, dtype).requires_grad_())
        ours = attend(lengths(rows, device), leaves[0], leaves[1], leaves[2], width**-0.5, window)
        q, k, v = (leaf.float() for leaf in leaves)
        theirs = _loop(rows, q, k, v, width**-0.5, window)
        gaps: list[Tensor] = []
        grads = [torch.autograd.grad((out.float() * slope).sum(), leaves) for out in (ours, theirs)]
        for a, b in ((ours, theirs), *zip(*grads, strict=True)):
            gaps.append((a.float() - b.float()).norm() / b.float().norm())
        return float(torch.stack(gaps).detach().max())  # NaN if one is


def _loop(rows: Rows, q_T_A_D: Tensor, k_T_K_D: Tensor, v_T_K_D: Tensor, scale: float, window: int | None) -> Tensor:
    """Return the attention row by row, from all scores."""
    out: list[Tensor] = []
    n_repeats, first = q_T_A_D.shape[1] // k_T_K_D.shape[1], 0
    for spans, n in rows:
        places = torch.cat([torch.arange(start, start + length) for start, length in spans]).to(q_T_A_D.device)
        k_S_A_D, v_S_A_D = (x[places].repeat_interleave(n_repeats, 1) for x in (k_T_K_D, v_T_K_D))
        scores = torch.einsum("rad,sad->ars", q_T_A_D[first : first + n], k_S_A_D) * scale
        key = torch.arange(len(places), device=places.device)
        distance = key[-n:, None] - key
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        out.append(torch.einsum("ars,sad->rad", scores.masked_fill(hidden, -torch.inf).softmax(-1), v_S_A_D))
        first += n
    return torch.cat(out)


def _dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which attention computes: that of autocast, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
