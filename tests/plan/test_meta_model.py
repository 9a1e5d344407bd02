"""Models from a configuration alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.plan.meta_model import build_meta_model, keeps_its_attention, read_config
from support.model_families import FAMILIES, build_config

CONFIGS = Path(__file__).parent.parent / "support" / "configs"
QWEN_LAYER = 2560 * (4096 + 2 * 1024 + 4096 + 3 * 9728) + 2 * 128 + 2 * 2560


@pytest.mark.parametrize(
    ("config", "n_parameters", "fused"),
    [
        ("qwen3-4b.json", 151936 * 2560 + 36 * QWEN_LAYER + 2560, True),
        ("llama-8b.json", 8_030_261_248, True),
        ("olmo2-7b.json", 7_298_617_344, False),
    ],
)
def test_sizes_of_known_models(config: str, n_parameters: int, fused: bool) -> None:
    """Guards against another architecture. Qwen3-4B by hand, the others as published."""
    model = build_meta_model(read_config("", CONFIGS / config))
    assert (sum(p.numel() for p in model.module.parameters()), model.fused) == (n_parameters, fused)


@pytest.mark.parametrize("text", ["{", '{"model_type": "nonsense"}'])
def test_a_bad_config(tmp_path: Path, text: str) -> None:
    """Guards against the library's errors."""
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read the configuration of .*bad\.json"):
        read_config("", tmp_path / "bad.json")


@pytest.mark.parametrize("name", FAMILIES)
def test_models_that_keep_their_attention_are_known(name: str) -> None:
    """Guards against a plan that counts our KV cache for a model that does not use it, and a refusal of other models."""
    kind, changes, path = FAMILIES[name]
    assert keeps_its_attention(build_config(kind, changes)) == (path == "plain")
