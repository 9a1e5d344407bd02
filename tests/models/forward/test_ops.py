"""Operations of a layer against their definitions, and their gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rethink.models.forward.ops import add_product, apply_rope, normalize, swiglu
from support.forward import draw


def numbers(*shape: int, seed: int) -> Tensor:
    return draw(*shape, seed=seed).double().requires_grad_()


def test_gradients_equal_finite_differences() -> None:
    """Guards against a wrong term in a backward pass that is written by hand."""
    assert torch.autograd.gradcheck(lambda x: normalize(x, 0.1), [numbers(3, 7, seed=1)])
    assert torch.autograd.gradcheck(lambda x: normalize(x, 1e-6), [numbers(2, 3, 5, seed=2)])
    assert torch.autograd.gradcheck(swiglu, [3 * numbers(5, 6, seed=3)])
    x, y, weight = numbers(3, 5, seed=4), numbers(3, 7, seed=5), numbers(5, 7, seed=6)
    assert torch.autograd.gradcheck(add_product, [x, y, weight])


def test_operations_equal_their_definitions() -> None:
    """Guards against a fast path, with or without gradients, that computes something else."""
    x = numbers(3, 8, seed=1)
    gate, up = x.chunk(2, -1)
    for mode in (torch.no_grad(), torch.enable_grad()):
        with mode:
            norm = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
            torch.testing.assert_close(normalize(x, 0.1), norm, rtol=0, atol=1e-12)
            torch.testing.assert_close(swiglu(x), gate * torch.sigmoid(gate) * up, rtol=0, atol=1e-12)
    zero = torch.zeros(2, 3, requires_grad=True)
    normalize(zero, 1e-6).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_rotates_adjacent_pairs(dtype: torch.dtype) -> None:
    """Guards against separated pairs, the wrong direction, and angles in bfloat16; gradients rotate back."""
    x = draw(5, 3, 4).to(dtype).requires_grad_()
    angles = draw(5, 1, 2, seed=9)
    out = apply_rope(x, torch.polar(torch.ones_like(angles), angles))
    a, b = x.detach().double().unflatten(-1, (2, 2)).unbind(-1)
    cos, sin = angles.double().cos(), angles.double().sin()
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), turned, rtol=0, atol=1e-6)
    out.backward(out.detach())
    assert x.grad is not None
    torch.testing.assert_close(
        x.grad.float(), x.detach().float(), rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02
    )


def test_residuals_are_added_in_float32() -> None:
    """Guards against a residual stream rounded by each layer: bfloat16 cannot represent 1 + 2^-12."""
    x, y, weight = torch.full((1, 1), 1 + 2**-12), torch.ones(1, 1), torch.ones(1, 1).bfloat16()
    assert add_product(x, y, weight).item() == 2 + 2**-12
    assert add_product(x, y, weight.float()).item() == 2 + 2**-12
