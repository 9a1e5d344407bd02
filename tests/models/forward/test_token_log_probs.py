"""Log-probs of tokens, computed in chunks, against one dense table in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rethink.models.forward.token_log_probs import token_log_probs
from rethink.models.forward.weights import Head
from support.kept_tables import kept_tables
from support.largest_tensor import LargestTensor
from support.products import count_operations

T, V, H = 13, 17, 5


class Inputs:
    """Hidden states, head, ids, temperatures, and factors [T] for a weighted sum of log-probs."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        bias: bool = True,
        softcap: float | None = None,
        head_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.softcap, self.head_dtype = softcap, head_dtype
        random = torch.Generator().manual_seed(3)
        self.hidden = torch.randn(T, H, generator=random).to(dtype).requires_grad_()
        self.weight = torch.randn(V, H, generator=random).to(dtype).requires_grad_()
        self.bias = torch.randn(V, generator=random).to(dtype).requires_grad_() if bias else None
        self.ids = torch.randint(V, (T,), generator=random)
        self.temperature = torch.linspace(0.5, 2.0, T)
        self.factors = torch.randn(T, generator=random)

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]

    def run_values(self, chunk: int) -> Tensor:
        """Return values of the function under test."""
        head = Head(self.weight, self.bias, self.softcap, self.head_dtype)
        return token_log_probs(self.hidden, head, self.ids, self.temperature, chunk)

    def run(self, chunk: int) -> tuple[Tensor, list[Tensor]]:
        """Return values and gradients of the function under test."""
        out = self.run_values(chunk)
        return out.detach(), list(torch.autograd.grad((out * self.factors).sum(), self.leaves))

    def dense(self) -> tuple[Tensor, list[Tensor]]:
        """Return the same from one [T, V] table in float64, whose factors are rounded to the head's dtype."""
        rounded = [x.detach().to(self.head_dtype) if x.ndim == 2 else x.detach() for x in self.leaves]
        leaves = [x.double().requires_grad_() for x in rounded]
        table = leaves[0] @ leaves[1].T + (leaves[2] if len(leaves) > 2 else 0.0)
        if self.softcap is not None:
            table = (table / self.softcap).tanh() * self.softcap
        out = (table / self.temperature.double()[:, None]).log_softmax(-1)[torch.arange(T), self.ids]
        return out.detach(), list(torch.autograd.grad((out * self.factors.double()).sum(), leaves))


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, T])
def test_chunks_equal_the_dense_float64_table(chunk: int, bias: bool, softcap: float | None) -> None:
    """Guards against a wrong slice, a forgotten temperature or soft cap, and a gradient summed over one chunk only."""
    inputs = Inputs(bias=bias, softcap=softcap)
    values, grads = inputs.run(chunk)
    expected, expected_grads = inputs.dense()
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6)
    assert values.dtype == torch.float32
    assert len(grads) == (3 if bias else 2)
    for got, want in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=4e-6)
        assert got.dtype == torch.float32


def test_bfloat16_inputs_give_float32_log_probs() -> None:
    """Guards against a head in bfloat16, whose log-probs would be off by about 1e-2."""
    inputs = Inputs(torch.bfloat16)
    values, grads = inputs.run(7)
    expected, expected_grads = inputs.dense()
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6)
    for got, want in zip(grads, expected_grads, strict=True):
        assert got.dtype == torch.bfloat16
        # Rounded once, to 8 bits.
        torch.testing.assert_close(got.double(), want, rtol=2.0**-8, atol=4e-6)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_only_the_factors_of_a_bfloat16_head_are_rounded(softcap: float | None) -> None:
    """Guards against logits rounded to bfloat16, and against a backward pass in another dtype than the forward pass."""
    inputs = Inputs(softcap=softcap, head_dtype=torch.bfloat16)
    values, grads = inputs.run(7)
    expected, expected_grads = inputs.dense()
    unrounded, _ = Inputs(softcap=softcap).dense()
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6)
    assert (expected - unrounded).abs().max() > 1e-3, "the rounding would be seen"
    for got, want in zip(grads, expected_grads, strict=True):
        assert got.dtype == torch.float32
        # Slopes, and hidden states times their factors, are rounded to 8 bits before they are multiplied.
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2.0**-7 * float(want.abs().max()))


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("head_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [7, T])
def test_a_frozen_head_gives_the_same_gradient_of_hidden_states(
    chunk: int, head_dtype: torch.dtype, softcap: float | None
) -> None:
    """Guards against slopes from the forward pass that lack the loss's factors, the temperature or the soft cap."""
    inputs = Inputs(softcap=softcap, head_dtype=head_dtype)
    values, (hidden, *_) = inputs.run(chunk)
    assert inputs.bias is not None
    inputs.weight, inputs.bias = inputs.weight.detach(), inputs.bias.detach()
    head = Head(inputs.weight, inputs.bias, softcap, head_dtype)
    out = token_log_probs(inputs.hidden, head, inputs.ids, inputs.temperature, chunk)
    assert torch.equal(out, values)
    (out * inputs.factors).sum().backward()
    assert inputs.hidden.grad is not None
    torch.testing.assert_close(inputs.hidden.grad, hidden, rtol=1e-6, atol=1e-6)


class Names(TorchDispatchMode):
    """Records the names of all operations, also of the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", [True, False])
def test_a_frozen_bias_costs_no_pass_over_the_logits(trained: bool) -> None:
    """Guards against sums of slopes that nobody asked for, and against a bias that is no longer added as it is frozen."""
    inputs = Inputs()
    _, grads = inputs.run(7)
    assert inputs.bias is not None
    inputs.bias.requires_grad_(False)
    inputs.weight.requires_grad_(trained)
    with Names() as names:
        (inputs.run_values(7) * inputs.factors).sum().backward()
    assert "addmv_.default" not in names.found
    assert "addmm_.default" in names.found or not trained, "names are recorded"
    for leaf, want in zip(inputs.leaves, grads, strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad, want, rtol=1e-6, atol=1e-6)


def test_no_tensor_and_nothing_saved_has_the_size_of_the_logits() -> None:
    """Guards against full logits, 101 x 97 entries, in forward or backward pass or kept between them."""
    saved: list[int] = []

    def record(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    hidden, weight = (torch.ones(n, 3, requires_grad=True) for n in (101, 97))
    ids = torch.arange(101) % 97
    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(record, lambda x: x):
        out = token_log_probs(hidden, Head(weight, None), ids, torch.ones(101), chunk=7)
        assert kept_tables(out, 97) == [3 * 97], "of the last chunk, of three tokens"
        out.sum().backward()
    assert kept_tables(out, 97) == []
    assert largest.n == 7 * 97
    assert sorted(saved) == sorted([101 * 3, 97 * 3, 101]), "hidden states, head and temperatures"


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(
    ("chunk", "trained", "n_products"), [(12, True, 3), (6, True, 3.5), (6, False, 2), (12, False, 2)]
)
def test_products_with_the_head(chunk: int, trained: bool, n_products: float, softcap: float | None) -> None:
    """Guards against logits computed again without need: of the last chunk, for a soft cap, or of a frozen head."""
    hidden, weight = torch.randn(12, H, requires_grad=True), torch.randn(V, H, requires_grad=trained)
    with count_operations() as counter:
        head = Head(weight, None, softcap)
        token_log_probs(hidden, head, torch.zeros(12, dtype=torch.long), torch.ones(12), chunk).sum().backward()
    assert counter.get_total_flops() == n_products * 2 * 12 * V * H


def test_without_gradients_there_is_one_product() -> None:
    """Guards against slopes that nobody asked for."""
    with count_operations() as counter, torch.no_grad():
        Inputs().run_values(5)
    assert counter.get_total_flops() == 2 * T * V * H


def test_a_graph_is_differentiated_twice() -> None:
    """Guards against a second backward pass through a chunk that the first one has overwritten."""
    inputs = Inputs()
    total = inputs.run_values(7).sum()
    first, second = (torch.autograd.grad(total, inputs.leaves, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second)
