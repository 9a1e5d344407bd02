"""Modules of transformers with our attention: threads, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.forward import ModuleWeights, Variant
from rethink.models.forward.attention import PLAIN
from support.forward import build, hidden_of, one_row, reference_hidden, some_ids


class Waiting:
    """Attention that waits in the first layer until `go_on` is set."""

    def __init__(self, n: int) -> None:
        self.packed = one_row(n)
        self.arrived, self.go_on = Event(), Event()

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
        variant: Variant = PLAIN,
    ) -> Tensor:
        if layer == 0:
            self.arrived.set()
            assert self.go_on.wait(60)
        return self.packed(layer, q, k, v, scale=scale, window=window, variant=variant)


def test_threads_share_a_module() -> None:
    """Guards against a thread that changes the module's attention while another one uses it."""
    module = build("gpt2")
    ids_T, positions_T = some_ids(7), torch.arange(7)
    expected = reference_hidden(module, ids_T).detach()
    weights = ModuleWeights(module, torch.float32)
    attend = Waiting(7)

    @torch.no_grad()
    def slowly() -> Tensor:
        return weights.hidden(ids_T, positions_T, attend)

    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        future = pool.submit(slowly)
        assert attend.arrived.wait(60)
        try:
            for form in (weights, ModuleWeights(module, torch.float32)):
                torch.testing.assert_close(hidden_of(form, ids_T), expected, rtol=0, atol=1e-5)
        finally:
            attend.go_on.set()
        torch.testing.assert_close(future.result(), expected, rtol=0, atol=1e-5)


def test_a_plain_call_is_refused_after_the_attention_is_replaced() -> None:
    """Guards against attention across rows when nobody supplied the layout."""
    module = build("gpt2")
    ModuleWeights(module, torch.float32)
    with pytest.raises(UserError, match="do not pass on keyword arguments"):
        module(input_ids=some_ids(7)[None])


def test_unknown_layer_types_are_refused() -> None:
    """Guards against an unknown window that is treated as full attention."""
    module = build("olmo2")
    module.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UserError, match="linear_attention layers are not supported"):
        ModuleWeights(module, torch.float32)
