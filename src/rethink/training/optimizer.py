"""The optimizer that a recipe names: torch's AdamW, or the same with its two averages in 8 bits each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rethink.errors import UserError, install_extra
from rethink.settings import Training

BLOCKS_PER_CHUNK = 65_536
"""As many are quantized at a time: codes are 64 bits wide meanwhile."""

MIN_SCALE = 1e-12
"""torchao gives no block a smaller scale."""


def open_optimizer(parameters: Sequence[Tensor], settings: Training, exact: Sequence[Tensor] = ()) -> Optimizer:
    """AdamW over the parameters. "adamw8bit" keeps both averages in blocks of 256 numbers of 8 bits with one scale each
    (Dettmers et al., arXiv 2110.02861). What has fewer than 4,096 numbers here, or a part of a block, keeps float32, and so
    do the `exact` ones. Raises UserError where its package is missing."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
    made = _adamw8bit_class(exact)
    return made(parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def is_unsupported(optimizer: str, rank: int, n_ranks: int) -> bool:
    """Return whether adapters of this rank cannot be trained with this optimizer in so many processes."""
    return n_ranks > 1 and rank > 0 and optimizer != "adamw"


def embedding_weights(module: torch.nn.Module) -> list[Tensor]:
    """Weights whose averages need float32, as in the paper (section 2.3). A token that a batch lacks has no gradient: its
    squares decay slowly, but beside larger ones in a block they are rounded to 0 at once, and the step divides by that.
    Measured: single weights moved by 190 learning rates, where AdamW's move by one."""
    return [m.weight for m in module.modules() if isinstance(m, torch.nn.Embedding)]


def torchao_version() -> str:
    """That of torchao. Raises UserError where it is missing."""
    return str(_torchao().__version__)


def _torchao() -> Any:
    try:
        import torchao.optim
    except ImportError as err:
        raise UserError(
            f'training.optimizer = "adamw8bit" needs the package torchao: {install_extra("adamw8bit")}'
        ) from err
    return torchao


def _adamw8bit_class(exact: Sequence[Tensor]) -> Any:
    class Made(_torchao().optim.AdamW8bit):  # type: ignore[misc]
        def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
            is_exact = any(p is other for other in exact)
            return torch.zeros_like(p) if is_exact else super()._new_buffer(p, signed)

    return Made


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """The learning rate of the next step; in place where the optimizer holds it as a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def take_step(optimizer: Optimizer) -> None:
    """One step. torchao compiles its own for each shape: on a CPU that would need a C++ compiler, and minutes."""
    first = optimizer.param_groups[0]["params"][0]
    with without_compilation(optimizer) if first.device.type == "cpu" else nullcontext():
        optimizer.step()


def without_compilation(optimizer: Optimizer) -> AbstractContextManager[object]:
    """While it is open, torchao's optimizer compiles nothing."""
    return nullcontext() if isinstance(optimizer, torch.optim.AdamW) else torch.compiler.set_stance("force_eager")


def is_quantized(average: object) -> bool:
    """Whether something is an average in 8 bits."""
    return hasattr(average, "codes")


def dequantize(average: Any) -> Any:
    """An average as the optimizer calculates with it, in float32; anything else as it is."""
    return average.dequantize() if is_quantized(average) else average


@torch.no_grad()
def write_average(average: Any, values: Tensor) -> None:
    """Write float32 values into an average of the same shape, in 8 bits if it has these. What was dequantized from blocks
    that began and ended at the same places then has the same values again, bit for bit."""
    if not is_quantized(average):
        average.copy_(values)
        return
    values_B_256 = values.to(average.codes.device).reshape(-1, average.block_size)
    codes_B_256 = average.codes.view(-1, average.block_size)
    for begin in range(0, len(values_B_256), BLOCKS_PER_CHUNK):
        some = slice(begin, begin + BLOCKS_PER_CHUNK)
        codes_B_256[some], average.scale[some] = _quantize(values_B_256[some], average.qmap)


def _quantize(values_B_256: Tensor, map_256: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [B, 256] and scales [B]: of each block the largest size, by which the nearest entries of the map are found.

    The map of signed codes ends at 1 and at -0.993: where a block's largest value was negative, less than its scale came
    out. There the scale is that over 0.993 (or, as it was rounded, one of the numbers beside), if this gives all values.
    """
    largest_B = values_B_256.abs().amax(-1)
    scale_B = largest_B.clamp(min=MIN_SCALE)
    codes_B_256, same_B = _nearest(values_B_256, scale_B, map_256)
    above_B = largest_B / -map_256[0]
    infinity = torch.full_like(above_B, torch.inf)
    for other_B in (above_B, above_B.nextafter(infinity), above_B.nextafter(-infinity)) if map_256[0] < 0 else ():
        codes, same = _nearest(values_B_256, other_B, map_256)
        better_B = same & ~same_B
        scale_B = torch.where(better_B, other_B, scale_B)
        codes_B_256 = torch.where(better_B[:, None], codes, codes_B_256)
        same_B = same_B | same
    return codes_B_256.to(torch.uint8), scale_B


def _nearest(values_B_256: Tensor, scale_B: Tensor, map_256: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [B, 256] of the map's nearest entries, and of which blocks [B] they give all values back."""
    codes_B_256 = torch.bucketize(values_B_256 / scale_B[:, None], (map_256[1:] + map_256[:-1]) / 2)
    return codes_B_256, (map_256[codes_B_256] * scale_B[:, None] == values_B_256).all(-1)
