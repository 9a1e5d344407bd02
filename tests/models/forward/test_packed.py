"""Products with matrices that oneDNN has packed."""

from __future__ import annotations

import pytest
import torch

from rethink.models.forward import packed
from rethink.models.forward.ops import add_product, product
from rethink.models.forward.packed import MIN_NUMBERS, pack

WIDTH = 512


def matrix(n_rows: int, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(n_rows))


@pytest.mark.parametrize("n_rows", [1, 2, 7, 33, 200])
def test_products_equal_those_of_the_plain_matrix(n_rows: int) -> None:
    """Guards against a form that is right only for the number of rows that it was packed for, and a lost bias."""
    x, weight, bias = matrix(n_rows), matrix(MIN_NUMBERS // WIDTH + 3), matrix(1, MIN_NUMBERS // WIDTH + 3)[0]
    before = torch.zeros(n_rows, len(weight)) + 2
    with torch.inference_mode():
        form = pack(weight)
        assert form.is_mkldnn
        assert (form.shape, form.dtype) == (weight.shape, weight.dtype)
        torch.testing.assert_close(product(x, form), x @ weight.T, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(product(x, form, bias), x @ weight.T + bias, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(add_product(before, x, form), x @ weight.T + 2, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(product(x.t().contiguous().t(), form), x @ weight.T, rtol=1e-4, atol=1e-4)
    assert bool((before == 2).all())


@pytest.mark.parametrize(
    "weight",
    [
        matrix(8),
        matrix(MIN_NUMBERS // WIDTH).bfloat16(),
        matrix(MIN_NUMBERS // WIDTH).to("meta"),
        torch.zeros(MIN_NUMBERS),
    ],
    ids=["small", "bfloat16", "another device", "a vector"],
)
def test_others_stay_plain(weight: torch.Tensor) -> None:
    """Guards against forms whose speed or results were not measured."""
    assert not pack(weight).is_mkldnn


def test_a_torch_without_the_operations_keeps_plain_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an error where torch was built without oneDNN, or has renamed what is not its stable interface."""
    monkeypatch.setattr(packed, "_OPERATIONS", object())
    assert not pack(matrix(MIN_NUMBERS // WIDTH)).is_mkldnn
