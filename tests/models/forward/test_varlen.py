"""Attention through torch's kernel for rows of several lengths, with a stand-in for the kernel, which needs a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.models.forward import PackedAttention, PackedRow, Span, Variant, varlen
from support.forward import draw

CPU = torch.device("cpu")


def stand_in(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """Return what torch documents for `varlen_attn`, query by query. The last query of a row is at its last key."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert int(cu_seq_q[-1]) == len(query)
    assert int(cu_seq_k[-1]) == len(key) == len(value)
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = window_size
    out = []
    for row in range(len(cu_seq_q) - 1):
        n_q, n_k = int(cu_seq_q[row + 1] - cu_seq_q[row]), int(cu_seq_k[row + 1] - cu_seq_k[row])
        for t in range(n_q):
            place = n_k - n_q + t
            first = 0 if left < 0 else max(0, place - left)
            last = n_k - 1 if right < 0 else min(n_k - 1, place + right)
            seen = slice(int(cu_seq_k[row]) + first, int(cu_seq_k[row]) + last + 1)
            for head in range(query.shape[1]):
                group = head * key.shape[1] // query.shape[1]
                scores = key[seen, group] @ query[int(cu_seq_q[row]) + t, head]
                weights = (scores * (query.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)
                out.append(weights @ value[seen, group])
    return torch.stack(out).view(query.shape)


def older(
    query: Tensor, key: Tensor, value: Tensor, *ends: Any, scale: float | None, window_size: tuple[int, int]
) -> Tensor:
    """The signature of versions that say nothing about heads that share keys."""
    return stand_in(query, key, value, *ends, scale=scale, window_size=window_size)


@pytest.fixture(params=[stand_in, older])
def through_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switch between the kernel and masks."""
    monkeypatch.setattr(varlen, "kernel", lambda: request.param)

    def switch(on: bool) -> None:
        monkeypatch.setattr(varlen, "fits", lambda *_: on)

    return switch


PROMPTS = [PackedRow((Span(0, 7),), 7), PackedRow((Span(7, 2),), 2)]
REPLIES = [
    [PackedRow((Span(0, 7), Span(9, 6)), 6), PackedRow((Span(7, 2), Span(15, 4)), 4)],
    [PackedRow((Span(0, 7), Span(19, 1)), 1)],
]
N = 20


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("n_keys", [4, 2, 1])
def test_values_and_gradients_equal_masked_attention(
    through_kernel: Callable[[bool], None], n_keys: int, window: int | None
) -> None:
    """Guards against keys of another row, queries aligned with the first keys instead of the last, a window that is off by
    one, a forgotten scale, heads in another order, and a prompt without the gradient of each of its replies."""
    leaves = [draw(N, n, 6, seed=n + i).double().requires_grad_() for i, n in enumerate((4, n_keys, n_keys))]
    results = []
    for on in (True, False):
        through_kernel(on)
        out = PackedAttention([PROMPTS, *REPLIES])(0, *leaves, scale=0.7, window=window)
        grads = torch.autograd.grad(out, leaves, draw(*out.shape, seed=9).double())
        results.append((out.detach(), *grads))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_earlier_keys_come_before_the_rows(through_kernel: Callable[[bool], None]) -> None:
    """Guards against spans that ignore the keys of a cache."""
    rows = [PackedRow((Span(2, 5), Span(8, 3)), 3), PackedRow((Span(0, 1), Span(11, 2)), 2)]
    q, k, v, past_k, past_v = (draw(n, 2, 4, seed=i).double() for i, n in enumerate((5, 5, 5, 8, 8)))
    results = []
    for on in (True, False):
        through_kernel(on)
        attend = PackedAttention([rows], past=lambda layer: (past_k, past_v), n_past=8)
        results.append(attend(0, q, k, v, scale=0.5, window=None))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("variant", "window", "uses_kernel"),
    [
        (Variant(), 3, True),
        (Variant(chunked=True), None, True),
        (Variant(chunked=True), 3, False),
        (Variant(softcap=2.0), None, False),
        (Variant(sinks=torch.zeros(2)), None, False),
        (Variant(image_T=torch.full((9,), -1)), None, False),
    ],
)
def test_only_plain_attention_goes_through_the_kernel(
    variant: Variant, window: int | None, uses_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against soft caps, sinks, chunks and images that the kernel would ignore."""
    calls: list[bool] = []

    def counted(*given: Any, **named: Any) -> Tensor:
        calls.append(True)
        return stand_in(*given, **named)

    monkeypatch.setattr(varlen, "kernel", lambda: counted)
    monkeypatch.setattr(varlen, "fits", lambda *_: True)
    q, k, v = (draw(9, 2, 4, seed=i) for i in range(3))
    PackedAttention([[PackedRow((Span(0, 9),), 9)]])(0, q, k, v, scale=1.0, window=window, variant=variant)
    assert bool(calls) == uses_kernel


def test_a_cpu_and_other_dtypes_use_masks() -> None:
    """Guards against a kernel that is asked for what it cannot do."""
    q = draw(9, 2, 4)
    assert not varlen.fits(q, q, None)
    assert not varlen.fits(q.bfloat16(), q.bfloat16(), None)


def test_autocast_decides_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a kernel that gets float32, or queries and values of two dtypes, from models under autocast."""
    dtypes: set[torch.dtype] = set()

    def recorded(*given: Any, **named: Any) -> Tensor:
        dtypes.update(x.dtype for x in given[:3])
        return stand_in(*given, **named)

    monkeypatch.setattr(varlen, "kernel", lambda: recorded)
    rows = varlen.lengths([([(0, 9)], 9)], CPU)
    q, k, v = draw(9, 2, 4), draw(9, 2, 4), draw(9, 2, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert varlen.attend(rows, q, k, v, 1.0, None).dtype == torch.bfloat16
    assert dtypes == {torch.bfloat16}


def looped(query: Tensor, key: Tensor, value: Tensor, *ends: Any, **named: Any) -> Tensor:
    """A quick stand-in for the trial's rows."""
    window = named["window_size"][0]
    n_queries, n_keys = (end.diff().tolist() for end in ends[:2])
    starts = ends[1].tolist()
    rows = [([(start, n)], n_q) for start, n, n_q in zip(starts, n_keys, n_queries, strict=False)]
    return varlen._loop(rows, query, key, value, named["scale"], None if window < 0 else window + 1)


def refused(*given: Any, **named: Any) -> Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nmore")


def off_by_one(*given: Any, **named: Any) -> Tensor:
    return looped(*given, **{**named, "window_size": (named["window_size"][0] + 1, 0)})


def without_gradients(query: Tensor, key: Tensor, value: Tensor, *ends: Any, **named: Any) -> Tensor:
    return looped(query, key, value.detach(), *ends, **named) + 0 * value.sum()


def unaligned(query: Tensor, key: Tensor, value: Tensor, *ends: Any, **named: Any) -> Tensor:
    """Queries at the first keys of their rows."""
    n_queries, starts = ends[0].diff().tolist(), ends[1].tolist()
    rows = [([(start, n)], n) for start, n in zip(starts, n_queries, strict=False)]
    return varlen._loop(rows, query, key, value, named["scale"], None)


def undefined(*given: Any, **named: Any) -> Tensor:
    """Right results, and gradients of keys that are NaN."""
    out, key = looped(*given, **named), given[1]
    return out + (0 * (key - key.detach()).pow(0.5)).sum()


@pytest.mark.parametrize(
    ("kernel", "window", "problem"),
    [
        (looped, False, ""),
        (looped, True, ""),
        (refused, False, "cannot be used: FlashAttention only supports Ampere GPUs or newer.$"),
        (off_by_one, True, "differ from a loop's by"),
        (without_gradients, False, "differ from a loop's by"),
        (unaligned, False, "differ from a loop's by"),
        (undefined, False, "differ from a loop's by nan"),
    ],
)
def test_a_kernel_that_is_wrong_is_not_used(
    kernel: Callable[..., Tensor], window: bool, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against another alignment, another window and wrong gradients, which some version of torch might have."""
    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    shape = (CPU, torch.float32, 4, 4, 8, window)
    if problem:
        with pytest.warns(UserWarning, match=problem):
            assert not varlen.works.__wrapped__(*shape)
        return
    with warnings.catch_warnings(action="error"), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert varlen.works.__wrapped__(*shape)


@pytest.mark.parametrize("error", varlen.DEVICE_ERRORS)
def test_a_failure_that_passes_does_not_switch_the_kernel_off(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against masks for the rest of a process because memory was short, once, at the first call."""

    def short(*given: Any, **named: Any) -> Tensor:
        raise error("CUDA out of memory")

    varlen.works.cache_clear()
    shape = (CPU, torch.float32, 4, 4, 8, False)
    monkeypatch.setattr(varlen, "kernel", lambda: short)
    with pytest.raises(error):
        varlen.works(*shape)
    monkeypatch.setattr(varlen, "kernel", lambda: looped)
    assert varlen.works(*shape)


@pytest.mark.skipif(torch.__version__ < "2.12", reason="older versions may lack the function, or its scale and window")
def test_this_torch_has_the_function() -> None:
    """Guards against a function that was moved, or whose arguments have other names."""
    assert callable(varlen.kernel())
