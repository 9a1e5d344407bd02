"""Log-probs and entropies, chunk by chunk, against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rethink.models.forward.token_entropies import token_log_probs_and_entropies
from rethink.models.forward.weights import Head
from support.largest_tensor import LargestTensor
from support.products import count_operations

T, H, V = 7, 5, 31


def tensors(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    temperature = torch.rand(T, generator=generator) + 0.5
    return normal(T, H), normal(V, H), normal(V) if bias else None, temperature


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 7, 99])
def test_values_and_gradients(chunk: int, frozen: bool, bias: bool, softcap: float | None) -> None:
    """Guards against a wrong slope of either value, a temperature or soft cap that is left out, and chunks that overlap."""
    hidden, weight, offset, temperature = tensors(bias)
    ids = torch.arange(T) * 3
    leaves = [hidden] if frozen else [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    head = Head(weight.detach(), None if offset is None else offset.detach(), softcap)
    found = token_log_probs_and_entropies(
        hidden, head if frozen else Head(weight, offset, softcap), ids, temperature, chunk
    )
    logits = torch.nn.functional.linear(hidden.double(), weight.double(), None if offset is None else offset.double())
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    wanted = torch.distributions.Categorical(logits=logits / temperature[:, None].double())
    pairs = list(zip(found, (wanted.log_prob(ids), wanted.entropy()), strict=True))
    for got, want in pairs:
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=2e-6)
    for factors in (
        (torch.linspace(-1, 2, T), torch.zeros(T)),
        (torch.zeros(T), torch.linspace(3, -1, T)),
        (1.5, -0.5),
    ):
        grads = []
        for k in range(2):
            total = (pairs[0][k] * factors[0] + pairs[1][k] * factors[1]).sum()
            grads.append(torch.autograd.grad(total, leaves, retain_graph=True))
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)


def test_a_frozen_head_has_no_gradient() -> None:
    """Guards against a gradient as large as the head for adapters."""
    hidden, weight, _, temperature = tensors(False)
    head = Head(weight.detach(), None)
    found = token_log_probs_and_entropies(hidden, head, torch.zeros(T, dtype=torch.long), temperature, 3)
    torch.cat(found).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_memory_and_products() -> None:
    """Guards against logits of all tokens at once, in either direction, and against logits for each value."""
    hidden, weight, _, temperature = tensors(False)
    ids = torch.zeros(T, dtype=torch.long)
    with LargestTensor() as largest, count_operations() as counter:
        torch.cat(token_log_probs_and_entropies(hidden, Head(weight, None), ids, temperature, 2)).sum().backward()
    assert largest.n == max(2 * V, H * V)
    # Logits, their recomputation except for the last chunk (1 of 7 tokens), and the gradients of states and weight.
    assert counter.get_total_flops() == 2 * V * H * (T + 6 + 2 * T)
