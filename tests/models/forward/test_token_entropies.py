"""Entropies, chunk by chunk, against torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rethink.models.forward.token_entropies import token_entropies
from rethink.models.forward.weights import Head

T, H, V = 7, 5, 31


def tensors(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    temperature = torch.rand(T, generator=generator) + 0.5
    return normal(T, H), normal(V, H), normal(V) if bias else None, temperature


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 7, 99])
def test_entropies_and_gradients(chunk: int, bias: bool, softcap: float | None) -> None:
    """Guards against a wrong slope, a temperature or soft cap that is left out, and chunks that overlap."""
    hidden, weight, offset, temperature = tensors(bias)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    factors = torch.linspace(-1, 2, T)
    found = token_entropies(hidden, Head(weight, offset, softcap), temperature, chunk)
    logits = torch.nn.functional.linear(hidden, weight, offset)
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    wanted = torch.distributions.Categorical(logits=logits / temperature[:, None]).entropy()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad((found * factors).sum(), leaves), torch.autograd.grad((wanted * factors).sum(), leaves)
    )


def test_a_frozen_head_has_no_gradient() -> None:
    """Guards against a gradient as large as the head for adapters."""
    hidden, weight, _, temperature = tensors(False)
    token_entropies(hidden, Head(weight.detach(), None), temperature, 3).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_memory_grows_with_the_chunk_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against logits of all tokens at once, in either direction."""
    largest: list[int] = []

    def measured(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, *given: int) -> Tensor:
            largest.append(x.numel())
            return operation(x, *given)

        return run

    for name in ("exp", "log_softmax"):
        monkeypatch.setattr(Tensor, name, measured(getattr(Tensor, name)))
    hidden, weight, _, temperature = tensors(False)
    token_entropies(hidden, Head(weight, None), temperature, 2).sum().backward()
    assert max(largest) == 2 * V
