"""Configurations from the metadata of GGUF files: what is not understood is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.models.gguf.config import build_config
from rethink.models.gguf.header import read_header

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from support.gguf_files import random_module, write_gguf


@pytest.mark.parametrize(
    ("kind", "changes", "complaint"),
    [
        (
            "llama",
            {"llama.expert_count": 8},
            r"settings that are not supported in GGUF files: llama\.expert_count = 8;",
        ),
        ("llama", {"llama.logit_scale": 0.5}, r"llama\.logit_scale = 0\.5"),
        (
            "llama",
            {"llama.rope.scaling.type": "longrope"},
            r"scales its rope in a way that is not supported \(longrope\)",
        ),
        ("llama", {"llama.attention.head_count_kv": [2, 1]}, "another attention.head_count_kv in each layer"),
        ("llama", {"llama.context_length": None}, r"has no setting 'llama\.context_length'"),
        (
            "llama-tied",
            {"llama.rope.dimension_count": 8, "llama.attention.key_length": 16},
            r"only a part of each head \(llama\.rope\..* = 8, .* have 16\)",
        ),
        ("qwen2", {"qwen2.rope.dimension_count": 8}, "only a part of each head"),
        ("gemma", {"gemma.rope.dimension_count": 8}, "only a part of each head"),
        ("llama", {"llama.rope.scaling.type": "linear"}, r"has no setting 'llama\.rope\.scaling\.factor'"),
        (
            "llama",
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0},
            r"has no setting 'llama\.rope\.scaling\.original_context_length'",
        ),
        ("qwen3", {"general.type": "mmproj"}, r"no language model but something that belongs to one \(mmproj\)"),
    ],
)
def test_other_settings_are_refused(kind: str, changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    """Guards against a model that is loaded without a setting that changes its answers."""
    file = write_gguf(tmp_path / "model.gguf", random_module(kind), "F16", changes)
    with pytest.raises(UserError, match=complaint):
        build_config(read_header(file))


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    """Guards against minutes of dequantizing before the refusal, and against a list that one has to look up."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"architecture 'mamba', which is not supported .*\(supported: llama, qwen2,"):
        build_config(read_header(tmp_path / "model.gguf"))
