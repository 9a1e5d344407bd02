"""Weights of GGUF files: what `gguf` dequantizes, in the order in which the forward pass needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rethink.errors import UserError
from rethink.models.load import load_model
from support.samples import sdpa_attention

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

from support.gguf_files import SHAPES, dequantize, random_module, write_gguf  # noqa: E402

IDS_N_T = torch.tensor([[5, 11, 2, 17, 3, 250, 7, 3, 23, 2, 29, 31]])


def assert_same_model(file: Path, expected: Any) -> None:
    """Assert equal parameters, and equal logits: the latter depend on the configuration, too."""
    model = load_model(str(file))
    found, wanted = (dict(module.named_parameters()) for module in (model.module, expected))
    assert found.keys() == wanted.keys()
    for name, parameter in wanted.items():
        assert torch.equal(found[name], parameter), name
    with torch.no_grad(), sdpa_attention(model.module), sdpa_attention(expected):
        mask = torch.ones_like(IDS_N_T)
        ours, theirs = (m(input_ids=IDS_N_T, attention_mask=mask).logits for m in (model.module, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_each_architecture_is_the_model_that_was_written(kind: str, tmp_path: Path) -> None:
    """Guards against rows of q and k in llama.cpp's order, norms without the 1 that it adds, a lost bias or head, and
    against a setting (rope, epsilon, window, tied head) that is not read from the file."""
    module = random_module(kind)
    file = write_gguf(tmp_path / "model.gguf", module, "Q4_1")
    dequantize(module, "Q4_1")
    assert_same_model(file, module)


@pytest.mark.parametrize("quantization", ["Q4_0", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32"])
def test_each_type_of_tensor_is_dequantized(quantization: str, tmp_path: Path) -> None:
    """Guards against a type whose blocks are read in another way than `gguf` writes them."""
    module = random_module("llama")
    file = write_gguf(tmp_path / "model.gguf", module, quantization)
    dequantize(module, quantization)
    assert_same_model(file, module)


ROPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
]


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: str(rope["rope_type"]))
def test_scaled_ropes(rope: dict[str, Any], tmp_path: Path) -> None:
    """Guards against positions that are not scaled: the library's reader of GGUF files drops these settings."""
    module = random_module("llama", rope_parameters={"rope_theta": 500000.0, **rope})
    file = write_gguf(tmp_path / "model.gguf", module, "F32")
    assert_same_model(file, module)
    found = load_model(str(file)).config.rope_parameters
    assert {key: found[key] for key in rope} == pytest.approx(rope)


def test_other_factors_of_the_rope_are_refused(tmp_path: Path) -> None:
    """Guards against Llama 3's parameters for a model that has others."""
    rope = {**ROPES[-1], "rope_theta": 500000.0, "original_max_position_embeddings": 4096}
    file = write_gguf(tmp_path / "model.gguf", random_module("llama", rope_parameters=rope), "F32")
    with pytest.raises(
        UserError, match=r"scales its rope in a way that is not supported: .*other factors than Llama 3"
    ):
        load_model(str(file))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"])
def test_weights_are_those_that_the_library_reads(kind: str, tmp_path: Path) -> None:
    """Guards against a mistake that the writer of these tests shares: transformers has a reader of its own."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate only")
    changes = {"head_dim": 128} if kind == "qwen3" else {}  # it does not read this from the file
    file = write_gguf(tmp_path / "model.gguf", random_module(kind, **changes), "Q4_0")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    ours = dict(load_model(str(file)).module.named_parameters())
    wanted = dict(theirs.named_parameters())
    assert ours.keys() == wanted.keys()
    for name, parameter in wanted.items():
        assert torch.equal(ours[name], parameter), name


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Guards against a layer that is dropped, one that is drawn at random, and a wrong shape."""
    cut = write_gguf(tmp_path / "cut.gguf", random_module("llama"), changes={"llama.block_count": 3})
    with pytest.raises(UserError, match=r"blk\.2\.attn_q\.weight is missing; .* and 6 more"):
        load_model(str(cut))
    cut = write_gguf(tmp_path / "less.gguf", random_module("llama"), changes={"llama.block_count": 1})
    with pytest.raises(UserError, match=r"blk\.1\.attn_\w+\.weight is not part of this architecture; .* and 6 more"):
        load_model(str(cut))
    wide = write_gguf(tmp_path / "wide.gguf", random_module("llama"), changes={"llama.feed_forward_length": 64})
    with pytest.raises(UserError, match=r"blk\.0\.ffn_gate\.weight has shape \[96, 64\], not \[64, 64\]"):
        load_model(str(wide))
