"""Operations of a layer, with as few passes over the tokens as possible.

On a small machine these passes are what is left to optimize, so each backward pass is written by hand instead of composed
by autograd.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from rethink.models.forward.packed import packed_product

FEW_ROWS = 128
"""Products of at most this many rows are transposed on several cores: 1.3 to 1.6 times as fast on two."""


def normalize(x: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) over the last axis: RMSNorm (arXiv 1910.07467) without a weight."""
    if x.is_cuda or torch.is_inference_mode_enabled():
        return rms_norm(x, x.shape[-1:], None, eps)
    out: Tensor = _Normalize.apply(x, eps)
    return out


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        y, scale = ctx.saved_tensors
        out = grad * y
        along = out.sum(-1, keepdim=True).mul_(-1 / y.shape[-1])
        return torch.addcmul(grad, y, along, out=out).mul_(scale), None


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up (arXiv 2002.05202), where gate and up are the two halves of the last axis."""
    if not torch.is_grad_enabled():
        gate, up = gate_up.chunk(2, -1)
        return silu(gate).mul_(up)
    out: Tensor = _SwiGLU.apply(gate_up)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, -1)
        sigmoid = gate.sigmoid()
        active = gate * sigmoid
        torch.mul(grad, active, out=grad_up)
        # The slope of silu is sigmoid + active * (1 - sigmoid).
        slope = active.addcmul_(active, sigmoid, value=-1).add_(sigmoid).mul_(up)
        torch.mul(grad, slope, out=grad_gate)
        return out


def apply_rope(x_T_A_D: Tensor, rope_T_1_D: Tensor) -> Tensor:
    """Return x with rotary positions (arXiv 2104.09864), in float32.

    Adjacent pairs in the last axis are complex numbers, multiplied by `rope` [T, 1, D / 2]."""
    t, a, d = x_T_A_D.shape
    pairs = torch.view_as_complex(x_T_A_D.float().view(t, a, d // 2, 2))
    return torch.view_as_real(pairs * rope_T_1_D).view(t, a, d)


def product(x_T_H: Tensor, weight_I_H: Tensor, bias_I: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias."""
    if weight_I_H.is_mkldnn:
        return packed_product(x_T_H, weight_I_H, bias_I)
    if _has_few_rows(x_T_H) and bias_I is None:
        return torch.mm(weight_I_H, x_T_H.t()).t().contiguous()
    return linear(x_T_H, weight_I_H, bias_I)


def _has_few_rows(x_T_H: Tensor) -> bool:
    """Return whether the transposed product is faster: with so few rows, most CPU cores would get no work."""
    few = torch.is_inference_mode_enabled() and len(x_T_H) <= FEW_ROWS
    return few and x_T_H.device.type == "cpu" and torch.get_num_threads() > 1


def add_product(x_T_H: Tensor, y_T_I: Tensor, weight_H_I: Tensor) -> Tensor:
    """Return x + y @ weight.T, in one operation if the dtypes agree."""
    if weight_H_I.is_mkldnn:
        return packed_product(y_T_I, weight_H_I).add_(x_T_H)
    if x_T_H.dtype == weight_H_I.dtype:
        if _has_few_rows(x_T_H):
            return torch.addmm(x_T_H.t(), weight_H_I, y_T_I.t()).t().contiguous()
        return torch.addmm(x_T_H, y_T_I, weight_H_I.t())
    return x_T_H + linear(y_T_I.to(weight_H_I.dtype), weight_H_I)
