"""Weights that do not fit their configuration, or are no numbers, are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.errors import UserError
from rethink.models.load import load_model
from rethink.models.model_info import read_model_info
from rethink.settings import ModelSource
from support.random_models import save_random_model

Tensors = dict[str, Tensor]
DOWN, EMBEDDING, HEAD = "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("untied"), "qwen3", tie_word_embeddings=False)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def with_one(name: str, value: float) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        tensors[name][3, 5] = value
        return tensors

    return change


CHANGES: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (without(DOWN), f"missing: {DOWN}"),
    (without(HEAD), f"missing: {HEAD}"),
    (lambda t: {**t, DOWN: torch.ones(3, 5)}, rf"{DOWN} has shape \[3, 5\], not \[20, 31\]"),
    (
        lambda t: {**t, "model.layers.7.mlp.up_proj.weight": torch.ones(3)},
        r"not in this architecture: model\.layers\.7",
    ),
    (
        lambda t: {**t, "model.layers.1.self_attn.q_proj.bias": torch.ones(20)},
        "not in this architecture: .*q_proj.bias",
    ),
    (lambda t: {f"module.{name}": value for name, value in t.items()}, "missing: .* and 22 more"),
    (lambda t: {f"transformer.{name}": value for name, value in t.items()}, "missing: .* and 22 more"),
    (lambda t: {name: value * torch.nan for name, value in t.items()}, "contains NaN"),
    (with_one(DOWN, torch.nan), f"the weight {DOWN} of .* contains NaN"),
    (with_one(HEAD, torch.inf), f"the weight {HEAD} of .* contains NaN or infinite"),
    (lambda t: {**t, EMBEDDING: torch.zeros_like(t[EMBEDDING])}, "the embedding of .* is all zeros"),
]


@pytest.mark.parametrize(("change", "complaint"), CHANGES)
def test_wrong_tensors_are_named(folder: Path, change: Callable[[Tensors], Tensors], complaint: str) -> None:
    """Regression: the library only warns, and trains on random weights; others were a traceback or a shorter model."""
    rewrite(folder, change)
    with pytest.raises(UserError, match=complaint):
        load_model(str(folder))


def test_a_configuration_with_other_layers_is_refused(folder: Path) -> None:
    """Guards against a model with fewer or with random layers."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for n, complaint in ((1, r"not in this architecture: model\.layers\.1\."), (3, r"missing: model\.layers\.2\.")):
        file.write_text(json.dumps({**config, "num_hidden_layers": n, "layer_types": ["full_attention"] * n}))
        with pytest.raises(UserError, match=complaint):
            load_model(str(folder))


def test_what_other_programs_add_is_no_fault(folder: Path, tmp_path: Path) -> None:
    """Guards against refusing tied weights that are stored once, old buffers, and a value head."""
    load_model(str(save_random_model(tmp_path / "tied", "qwen3", tie_word_embeddings=True)))
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
        "v_head.summary.weight": torch.ones(1, 20),
    }
    rewrite(folder, lambda tensors: {**tensors, **buffers})
    load_model(str(folder))


def test_quantized_weights_are_refused(folder: Path) -> None:
    """Guards against an ImportError of a missing package, and a forward pass over packed integers."""
    file = folder / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(UserError, match=r"are quantized \(gptq\)"):
        load_model(str(folder))
    with pytest.raises(UserError, match=r"are quantized \(gptq\)"):  # a dry run, too
        read_model_info(ModelSource(str(folder)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_of_one_byte_are_refused(folder: Path, dtype: torch.dtype) -> None:
    """Regression: without a quantization_config, int8 weights were read as numbers from -127 to 127."""
    rewrite(folder, lambda tensors: {**tensors, DOWN: tensors[DOWN].to(dtype)})
    with pytest.raises(UserError, match=rf"the weight {DOWN} in .* is quantized \("):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_an_attention_that_needs_a_package_is_not_asked_for(folder: Path, name: str) -> None:
    """Regression: a configuration saved on a GPU names FlashAttention, and the model was refused without that package."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: "flash_attention_2"}))
    assert load_model(str(folder)).module.config._attn_implementation != "flash_attention_2"
