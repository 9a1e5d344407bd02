"""The optimizer of a recipe: torch's AdamW, or AdamW with both moving averages in 8 bits."""

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
"""Blocks that are quantized at a time, to save memory: codes take 64 bits meanwhile."""

MIN_SCALE = 1e-12
"""The smallest scale of a block in torchao."""


def open_optimizer(parameters: Sequence[Tensor], settings: Training, exact: Sequence[Tensor] = ()) -> Optimizer:
    """Return AdamW for the parameters. "adamw8bit" stores both averages in blocks of 256 numbers of 8 bits with one scale
    each (Dettmers et al., arXiv 2110.02861). Averages stay float32 for parameters in `exact`, and for those that have fewer
    than 4,096 numbers or do not fill whole blocks. Raise UserError if torchao is missing."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
    adamw8bit = _adamw8bit_class(exact)
    return adamw8bit(parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def is_unsupported(optimizer: str, rank: int, n_ranks: int) -> bool:
    """Return whether this optimizer cannot train adapters of this LoRA rank in this many processes."""
    return n_ranks > 1 and rank > 0 and optimizer != "adamw"


def embedding_weights(module: torch.nn.Module) -> list[Tensor]:
    """Return the weights whose averages need float32: embeddings, as in the paper (section 2.3).

    A token that is not in the batch has no gradient, and its average of squares decays slowly. In 8 bits, next to larger
    numbers in a block, that average is rounded to 0 at once, and the step divides by it. Measured: single weights moved by
    190 learning rates; with AdamW they move by one."""
    return [m.weight for m in module.modules() if isinstance(m, torch.nn.Embedding)]


def torchao_version() -> str:
    """Return the version of torchao. Raise UserError if it is missing."""
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
    class ExactAdamW8bit(_torchao().optim.AdamW8bit):  # type: ignore[misc]
        def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
            is_exact = any(p is other for other in exact)
            return torch.zeros_like(p) if is_exact else super()._new_buffer(p, signed)

    return ExactAdamW8bit


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next step; in place if the optimizer holds it as a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def take_step(optimizer: Optimizer) -> None:
    """Take a step. On a CPU without compilation: torchao would need a C++ compiler, and minutes for each shape."""
    first = optimizer.param_groups[0]["params"][0]
    with without_compilation(optimizer) if first.device.type == "cpu" else nullcontext():
        optimizer.step()


def without_compilation(optimizer: Optimizer) -> AbstractContextManager[object]:
    """Return a context in which torchao's optimizer does not compile its step."""
    return nullcontext() if isinstance(optimizer, torch.optim.AdamW) else torch.compiler.set_stance("force_eager")


def is_quantized(average: object) -> bool:
    """Return whether the object is an average in 8 bits."""
    return hasattr(average, "codes")


def dequantize(average: Any) -> Any:
    """Return an 8-bit average in float32; anything else unchanged."""
    return average.dequantize() if is_quantized(average) else average


@torch.no_grad()
def write_average(average: Any, values: Tensor) -> None:
    """Write float32 values into an average of the same shape, quantized if the average is. Values that were dequantized
    from the same blocks are restored bit for bit."""
    if not is_quantized(average):
        average.copy_(values)
        return
    values_B_256 = values.to(average.codes.device).reshape(-1, average.block_size)
    codes_B_256 = average.codes.view(-1, average.block_size)
    for begin in range(0, len(values_B_256), BLOCKS_PER_CHUNK):
        chunk = slice(begin, begin + BLOCKS_PER_CHUNK)
        codes_B_256[chunk], average.scale[chunk] = _quantize(values_B_256[chunk], average.qmap)


def _quantize(values_B_256: Tensor, map_256: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes [B, 256], the nearest entries of the map, and scales [B], the largest absolute value of each block.

    The signed map ends at 1 and at -0.993. If the largest value of the original block was negative, dequantizing gave less
    than its scale. The scale is then that value / 0.993, or an adjacent float because of rounding, if that restores all
    values.
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
    """Return codes [B, 256] of the nearest entries of the map, and for which blocks [B] they restore all values."""
    codes_B_256 = torch.bucketize(values_B_256 / scale_B[:, None], (map_256[1:] + map_256[:-1]) / 2)
    return codes_B_256, (map_256[codes_B_256] * scale_B[:, None] == values_B_256).all(-1)
