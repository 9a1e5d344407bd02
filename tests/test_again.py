"""Activations that are computed again: the same gradients to the bit, less memory, and nothing left on the module."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.forward import ModuleWeights
from rethink.models.forward.checkpointing import layers_again, layers_of
from rethink.models.forward.modules import ATTENTION
from rethink.models.language_model import LanguageModel
from samples import Gradient, apply, copied, gradient_of, make_trainer, mixed_part
from test_forward import ALL, build, form_of, hidden_of, loss_of, some_ids
from test_step import shared_part


def flags(module: Any) -> list[tuple[Any, ...]]:
    """What checkpointing could leave behind, part by part."""
    return [
        (part.training, getattr(part, "gradient_checkpointing", None), sorted(part.__dict__))
        for part in module.modules()
    ]


def gradients(name: str, dtype: torch.dtype, form: Any, recompute: bool) -> list[Tensor | None]:
    """Of the leaves, from a module of its own."""
    weights = form(build(name), dtype, trainable=True, gradient_checkpointing=recompute)
    hidden_T_H = hidden_of(weights, some_ids(23))
    loss = loss_of(hidden_T_H, hidden_T_H @ weights.head[0].T)
    return list(torch.autograd.grad(loss, weights.leaves, allow_unused=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_the_same_bits(name: str, dtype: torch.dtype) -> None:
    """Guards against a second pass that attends otherwise (the module's own attention, say), or in another precision."""
    for form in {form_of(name), ModuleWeights}:
        kept, again = (gradients(name, dtype, form, recompute) for recompute in (False, True))
        assert sum(g is not None and bool(g.abs().max() > 0) for g in kept) > 5
        for one, other in zip(kept, again, strict=True):
            assert (one is None) == (other is None)
            assert one is None or other is None or torch.equal(one, other)


@contextmanager
def saved() -> Iterator[list[int]]:
    """Bytes of what is kept for a backward pass, each storage once. Parameters are not among them."""
    seen: dict[int, Tensor] = {}
    found: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in seen and not tensor.is_leaf:
            seen[tensor.data_ptr()] = tensor  # kept alive, so that no address comes twice
            found.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


@pytest.mark.parametrize("name", ["qwen3", "olmo2", "gpt2"])
@pytest.mark.parametrize("through_modules", [False, True])
def test_only_the_inputs_of_layers_are_kept(name: str, through_modules: bool) -> None:
    """Guards against an option that does nothing: with two layers, what is kept without it is several times as much."""
    form = ModuleWeights if through_modules else form_of(name)
    kept = []
    for recompute in (False, True):
        weights = form(build(name), torch.float32, trainable=True, gradient_checkpointing=recompute)
        with saved() as found:
            hidden_of(weights, some_ids(23))
        kept.append(sum(found))
    # A layer's input is 24 numbers a token, the rest of it 37 in the middle of the mlp alone, several times.
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("n_threads", [1, 3])
def test_training_is_the_same_to_the_bit(any_model: LanguageModel, n_threads: int) -> None:
    """Guards against what only the trainer's way meets: several threads at once, shared prompts, several micro-batches."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        found: list[tuple[dict[str, float], Gradient]] = []
        for on in (False, True):
            trainer = make_trainer(any_model, micro_batch_tokens=11, gradient_checkpointing=on)
            state = flags(trainer.model.module)
            numbers = apply(trainer, shared_part(any_model.module), n_steps=2)
            found.append((numbers, gradient_of(trainer.model.module)))
            assert flags(trainer.model.module) == state
    finally:
        torch.set_num_threads(before)
    (numbers, kept), (others, again) = found
    assert numbers == others
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_a_frozen_model_beside_it_still_works(any_model: LanguageModel) -> None:
    """Guards against a start model that is asked while the policy's layers are set up, and against its KL."""
    part = mixed_part(any_model.module, kl=0.1)
    start = copied(any_model)
    found = [
        apply(make_trainer(any_model, lambda: start, gradient_checkpointing=on), part)["loss"] for on in (False, True)
    ]
    assert found[0] == found[1]
    assert not any(p.grad is not None for p in start.module.parameters())


@pytest.mark.parametrize("name", ["olmo2", "gpt2"])
def test_nothing_is_left_on_the_module(name: str) -> None:
    """Guards against leaks (also after an error) of the forward pass, of the attention, and into copies."""
    module = build(name)
    state, attention = flags(module), module.config._attn_implementation
    weights = ModuleWeights(module, torch.float32, trainable=True, gradient_checkpointing=True)
    hidden_of(weights, some_ids(23)).sum().backward()
    assert flags(module) == state

    def fail(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("no attention today")

    with pytest.raises(RuntimeError, match="no attention today"):
        weights.hidden(some_ids(5), torch.arange(5), fail)
    assert flags(module) == state
    assert module.config._attn_implementation == attention != ATTENTION
    torch.testing.assert_close(hidden_of(weights, some_ids(23)), hidden_of(weights, some_ids(23)), rtol=0, atol=0)


def test_hooks_of_a_layer_stay_outside(qwen: LanguageModel) -> None:
    """Guards against hooks that gather a layer's weights a second time: a backward pass has hooks of its own for that."""
    module = copy.deepcopy(qwen.module)
    calls: list[int] = []
    first, *_ = layers_of(module)
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    weights = ModuleWeights(module, torch.float32, trainable=True, gradient_checkpointing=True)
    hidden_of(weights, torch.tensor([5, 6, 7])).sum().backward()
    assert calls == [1]


def test_contexts_may_overlap() -> None:
    """Guards against a thread that leaves and takes the layers of another with it."""
    module = build("olmo2")
    outer, inner = layers_again(module), layers_again(module)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert all("forward" in layer.__dict__ for layer in layers_of(module))
    inner.__exit__(None, None, None)
    assert not any("forward" in layer.__dict__ for layer in layers_of(module))


def test_a_model_without_such_layers_is_refused() -> None:
    """Guards against a setting that is dropped without a word."""
    with pytest.raises(UserError, match=r"training.gradient_checkpointing = false"):
        layers_of(torch.nn.Linear(3, 3))
