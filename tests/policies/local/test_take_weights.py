"""A sampler that takes the weights: the same replies from half of the memory."""

from __future__ import annotations

import copy

import pytest
import torch

from rethink.models.forward import packed
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.lora import add_adapter
from rethink.policies.local import LocalPolicy
from rethink.settings import Lora
from rethink.types import Sampling
from support.local_sampling import PROMPTS, assert_same_groups

SAMPLED = Sampling(max_tokens=9)


def n_bytes_of_layers(model: LanguageModel) -> int:
    return sum(p.numel() * p.element_size() for p in model.module.base_model.layers.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replies_are_the_same_and_layers_are_held_once(qwen: LanguageModel, dtype: torch.dtype) -> None:
    """Guards against weights that differ, that stay in the module, too, or that a policy with other sampling looks for."""
    expected = LocalPolicy(copy.deepcopy(qwen), SAMPLED, dtype=dtype).sample(PROMPTS, 2)
    assert n_bytes_of_layers(qwen) > 0
    policy = LocalPolicy(qwen, SAMPLED, dtype=dtype).take_weights()
    assert n_bytes_of_layers(qwen) == 0
    for _ in range(2):
        assert_same_groups(policy.sample(PROMPTS, 2), expected)
    assert_same_groups(policy.with_sampling(SAMPLED).sample(PROMPTS, 2), expected)
    samples = [s for group in expected for s in group]
    for sample, log_probs in zip(samples, policy.score(samples), strict=True):
        assert log_probs == pytest.approx(sample.log_probs, abs=1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_packed_matrices_give_the_same_replies(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against wrong products where matrices are large enough to be packed, and against plain copies beside them."""
    monkeypatch.setattr(packed, "MIN_NUMBERS", 1)
    expected = LocalPolicy(copy.deepcopy(qwen), SAMPLED).sample(PROMPTS, 9)
    policy = LocalPolicy(qwen, SAMPLED).take_weights()
    layers = policy._current_weights().layers  # type: ignore[attr-defined]
    assert all(getattr(layer, name).is_mkldnn for layer in layers for name in ("qkv", "out", "gate_up", "down"))
    assert_same_groups(policy.sample(PROMPTS, 9), expected)


def test_adapters_are_merged(qwen: LanguageModel) -> None:
    """Guards against taken weights without the adapter."""
    pytest.importorskip("peft")
    adapted = add_adapter(qwen, Lora(rank=2), 0)
    for name, p in adapted.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    plain = LocalPolicy(copy.deepcopy(qwen), SAMPLED).sample(PROMPTS, 2)
    expected = LocalPolicy(copy.deepcopy(adapted), SAMPLED).sample(PROMPTS, 2)
    assert [s.ids for group in plain for s in group] != [s.ids for group in expected for s in group]
    assert_same_groups(LocalPolicy(adapted, SAMPLED).take_weights().sample(PROMPTS, 2), expected)


def test_other_forward_passes_keep_their_modules(any_model: LanguageModel) -> None:
    """Guards against an emptied module that the forward pass runs."""
    expected = LocalPolicy(copy.deepcopy(any_model), SAMPLED).sample(PROMPTS, 2)
    assert_same_groups(LocalPolicy(any_model, SAMPLED).take_weights().sample(PROMPTS, 2), expected)


def test_the_check_at_loading_rearranges_one_layer_at_a_time(
    model_folders: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a second copy of all layers while a model is loaded."""
    kept: list[str] = []
    weights = LanguageModel.weights

    def watched(self: LanguageModel, *args: object, **how: object) -> object:
        kept.append(str(how.get("layers", "kept")))
        return weights(self, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "weights", watched)
    assert load_model(str(model_folders["qwen3"])).fused
    assert kept == ["on demand"]
