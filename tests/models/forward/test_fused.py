"""The forward passes against that of transformers: hidden states, and gradients of every parameter."""

from __future__ import annotations

import copy

import pytest
import torch

from rethink.models.forward import FusedWeights, ModuleWeights
from rethink.models.forward.weights import logits
from support.forward import (
    ARCHITECTURES,
    assert_gradients_close,
    build,
    gradients_through,
    hidden_of,
    loss,
    loss_of,
    parameter_gradients,
    reference_hidden,
    some_ids,
    weights_class,
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_states_and_gradients_equal_those_of_transformers(name: str) -> None:
    """Guards against a weight that is left out or multiplied in at the wrong place, forward or backward."""
    module = build(name)
    ids_T = some_ids(23)
    theirs = copy.deepcopy(module)
    hidden_T_H = reference_hidden(theirs, ids_T)
    loss_of(hidden_T_H, theirs.lm_head(hidden_T_H)).backward()
    weights = weights_class(name)(module, torch.float32, trainable=True)
    ours_T_H = hidden_of(weights, ids_T)
    torch.testing.assert_close(ours_T_H, hidden_T_H, rtol=0, atol=1e-4)
    assert_gradients_close(
        gradients_through(module, weights, loss_of(ours_T_H, logits(ours_T_H, weights.head))),
        parameter_gradients(theirs),
    )
    for untrained in (weights_class(name), ModuleWeights):
        with torch.no_grad():
            again_T_H = hidden_of(untrained(module, torch.float32), ids_T)
        torch.testing.assert_close(again_T_H, hidden_T_H, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "qwen3, tied", "qwen2, with biases"])
def test_the_padding_row_is_not_trained_by_the_embedding(name: str) -> None:
    """Guards against training a row that transformers does not train. A tied head still trains it."""
    module = build(name)
    ids_T = some_ids(23)
    assert module.base_model.embed_tokens.padding_idx == 0
    assert (ids_T == 0).any()
    weights = FusedWeights(module, torch.float32, trainable=True)
    gradients_through(module, weights, hidden_of(weights, ids_T).square().sum())
    rows_V = module.base_model.embed_tokens.weight.grad.abs().amax(-1)
    assert rows_V[0] == 0
    assert all(rows_V[i] > 0 for i in ids_T.tolist() if i)
    module.zero_grad()
    weights = FusedWeights(module, torch.float32, trainable=True)
    gradients_through(module, weights, logits(hidden_of(weights, ids_T), weights.head).sum())
    assert (module.base_model.embed_tokens.weight.grad[0].abs().max() > 0) == ("tied" in name)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "gpt2"])
def test_gradients_accumulate(name: str) -> None:
    """Guards against a backward pass that overwrites earlier gradients."""
    module = build(name)
    results = []
    for _ in range(2):
        weights = weights_class(name)(module, torch.float32, trainable=True)
        found = gradients_through(module, weights, loss(weights, some_ids(7)))
        results.append({key: g.clone() for key, g in found.items()})
    assert_gradients_close(results[1], {key: 2 * g for key, g in results[0].items()})


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_frozen_parameters_get_no_gradient(name: str) -> None:
    """Guards against a gradient for a frozen parameter, and a crash because of one."""
    module, free = build(name), build(name)
    module.get_input_embeddings().requires_grad_(False)
    results = []
    for each in (module, free):
        weights = weights_class(name)(each, torch.float32, trainable=True)
        results.append(gradients_through(each, weights, loss(weights, some_ids(7))))
    frozen = {key for key, p in module.named_parameters() if not p.requires_grad}
    assert_gradients_close(results[0], {key: g for key, g in results[1].items() if key not in frozen}, share=1e-5)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "qwen3", "qwen2, with biases", "gpt2", "phi3"])
def test_bfloat16_is_near_float32(name: str) -> None:
    """Guards against sums, norms or gradients in bfloat16: only matrices are rounded, to 8 bits."""
    module = build(name)
    ids_T = some_ids(23)
    results, hiddens = [], []
    for dtype in (torch.float32, torch.bfloat16):
        module.zero_grad()
        weights = weights_class(name)(module, dtype, trainable=True)
        hiddens.append(hidden_of(weights, ids_T))
        gradients = gradients_through(module, weights, loss_of(hiddens[-1], logits(hiddens[-1], weights.head)))
        assert all(g.dtype == torch.float32 for g in gradients.values())
        results.append({key: g.clone() for key, g in gradients.items()})
    with torch.no_grad():
        hiddens.append(hidden_of(weights_class(name)(module, torch.bfloat16), ids_T).float())
    for near_T_H in hiddens[1:]:
        gap = (near_T_H - hiddens[0]).norm() / hiddens[0].norm()
        # Each of about ten roundings on the way is off by up to 2^-9.
        assert 1e-4 < gap < 0.03
    exact, near = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in results)
    assert results[0].keys() == results[1].keys()
    assert (near - exact).norm() / exact.norm() < 0.05
