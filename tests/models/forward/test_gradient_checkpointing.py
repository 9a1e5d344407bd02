"""Gradient checkpointing: the same gradients to the bit, in less memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rethink.errors import UserError
from rethink.models.forward import FusedWeights, ModuleWeights, Weights, gradient_checkpointing
from rethink.models.language_model import LanguageModel
from support.forward import build, hidden_of, loss_of, some_ids, weights_class
from support.samples import Gradient, apply, copied, gradient_of, make_trainer, shared_part


def weights_of(name: str, form: Any, dtype: torch.dtype, on: bool) -> Weights:
    """Return trainable weights of a new module, with gradient checkpointing or without."""
    module = build(name)
    if form is FusedWeights:
        return FusedWeights(module, dtype, trainable=True, gradient_checkpointing=on)
    if on:
        gradient_checkpointing.enable_checkpointing(module)
    return ModuleWeights(module, dtype, trainable=True)


def gradients(weights: Weights) -> list[Tensor | None]:
    """Return the gradients of the leaves."""
    hidden_T_H = hidden_of(weights, some_ids(23))
    loss = loss_of(hidden_T_H, hidden_T_H @ weights.head[0].T)
    return list(torch.autograd.grad(loss, weights.leaves, allow_unused=True))


NAMES = ("qwen3", "llama, tied", "mistral, window", "olmo2", "gpt2", "phi3, window")
CASES = [(name, torch.float32) for name in NAMES] + [("qwen3", torch.bfloat16), ("gpt2", torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_gradients_are_the_same_bits(name: str, dtype: torch.dtype) -> None:
    """Guards against a recomputation with other attention (the module's own) or precision."""
    for form in {weights_class(name), ModuleWeights}:
        kept, again = (gradients(weights_of(name, form, dtype, on)) for on in (False, True))
        assert sum(g is not None and bool(g.abs().max() > 0) for g in kept) > 5
        for one, other in zip(kept, again, strict=True):
            assert (one is None) == (other is None)
            assert one is None or other is None or torch.equal(one, other)


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Record the bytes saved for the backward pass, each storage once, without parameters."""
    seen: dict[int, Tensor] = {}
    found: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in seen and not tensor.is_leaf:
            seen[tensor.data_ptr()] = tensor  # kept alive: its address must not be reused
            found.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


@pytest.mark.parametrize("form", [FusedWeights, ModuleWeights])
def test_only_layer_inputs_are_saved(form: Any) -> None:
    """Guards against an option without effect: two layers save several times as much without it."""
    kept = []
    for on in (False, True):
        weights = weights_of("qwen3", form, torch.float32, on)
        with saved_bytes() as found:
            hidden_of(weights, some_ids(23))
        kept.append(sum(found))
    assert kept[1] < kept[0] / 3


@pytest.mark.slow
def test_training_gives_the_same_bits(any_model: LanguageModel) -> None:
    """Guards against differences with several threads, shared prompts and several micro-batches."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found: list[tuple[dict[str, float], Gradient]] = []
        for on in (False, True):
            trainer = make_trainer(any_model, micro_batch_tokens=11, gradient_checkpointing=on)
            numbers = apply(trainer, shared_part(any_model.module), n_steps=2)
            found.append((numbers, gradient_of(trainer.model.module)))
    finally:
        torch.set_num_threads(before)
    (numbers, kept), (others, again) = found
    assert numbers == others
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_passes_without_gradients_are_not_checkpointed(
    any_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a slower sampler that shares the module with the trainer."""
    model = copied(any_model)
    before = hidden_of(model.weights(), some_ids(23))
    model.enable_gradient_checkpointing()
    monkeypatch.setattr(gradient_checkpointing, "checkpoint", pytest.fail)
    with torch.no_grad():
        assert torch.equal(hidden_of(model.weights(), some_ids(23)), before)


def test_a_copy_uses_its_own_weights() -> None:
    """Guards against layers of a copy that call those of the original module."""
    module = build("olmo2")
    gradient_checkpointing.enable_checkpointing(module)
    before = hidden_of(ModuleWeights(module, torch.float32), some_ids(23))
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.base_model.layers.parameters():
            p.mul_(1.25)
    changed = hidden_of(ModuleWeights(other, torch.float32), some_ids(23))
    assert not torch.allclose(changed, before, atol=0.01)
    assert torch.equal(hidden_of(ModuleWeights(module, torch.float32), some_ids(23)), before)


def test_hooks_of_a_layer_run_once(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against FSDP2 gathering weights twice, and layers that are checkpointed twice."""
    model = LanguageModel(copy.deepcopy(qwen.module), qwen.chat)
    hooks: list[int] = []
    model.module.base_model.layers[0].register_forward_pre_hook(lambda *_: hooks.append(1))
    checkpointed: list[int] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        checkpointed.append(1)
        return checkpoint(*arguments, **named)

    monkeypatch.setattr(gradient_checkpointing, "checkpoint", counted)
    model.enable_gradient_checkpointing()
    model.enable_gradient_checkpointing()
    hidden_of(model.weights(trainable=True), torch.tensor([5, 6, 7])).sum().backward()
    assert hooks == [1]
    assert len(checkpointed) == model.config.num_hidden_layers


def test_models_without_layers_are_refused() -> None:
    """Guards against a setting that is silently ignored."""
    with pytest.raises(UserError, match=r"training.gradient_checkpointing = false"):
        gradient_checkpointing.enable_checkpointing(torch.nn.Linear(3, 3))
