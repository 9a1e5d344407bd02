"""The configuration for `transformers` that a GGUF file's metadata describes.

The library has such a mapping, too, but it leaves out some settings (Llama 3's rope factors, YaRN, biases) without a word.
Here a setting that is not understood is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from rethink.errors import UserError
from rethink.models.gguf.header import Header
from rethink.models.gguf.tensors import ROPE_FACTORS, read_tensor

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The settings of Llama 3's rope that all its releases have in common; the factor differs."""
GEMMA2_27B_LAYERS, GEMMA3_27B_LAYERS = 46, 62
WINDOW = "attention.sliding_window"
USED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)
"""Settings that every architecture may have."""


def build_config(header: Header) -> dict[str, Any]:
    """Return the content of config.json. Raise UserError for an architecture or a setting that is not supported."""
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise UserError(f"{header.path} holds no language model but something that belongs to one ({kind})")
    if header.architecture not in ARCHITECTURES:
        raise UserError(
            f"{header.path} has the architecture {header.architecture!r}, which is not supported in GGUF files (supported: "
            f"{', '.join(ARCHITECTURES)}); use the original model"
        )
    build, more = ARCHITECTURES[header.architecture]
    _refuse_other_settings(header, {*USED, *more})
    try:
        found = {**_common(header), **build(header)}
    except KeyError as err:
        raise UserError(f"{header.path} has no setting {err}: it is damaged, or incomplete") from err
    rotary = header.setting("rope.dimension_count", found["head_dim"])
    if rotary != found["head_dim"] and build is not _phi3:
        raise UserError(
            f"{header.path} turns only a part of each head ({header.architecture}.rope.dimension_count = {rotary}, and "
            f"heads have {found['head_dim']}), which is not supported; use the original model"
        )
    return found


def _refuse_other_settings(header: Header, known: Collection[str]) -> None:
    prefix = f"{header.architecture}."
    names = sorted(k for k in header.metadata if k.startswith(prefix) and k.removeprefix(prefix) not in known)
    if names:
        raise UserError(
            f"{header.path} has settings that are not supported in GGUF files: "
            f"{', '.join(f'{name} = {header.metadata[name]}' for name in names)}; use the original model"
        )


def _common(header: Header) -> dict[str, Any]:
    """Return what all architectures here have in common."""
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    n_heads = _required(header, "attention.head_count")
    hidden = _required(header, "embedding_length")
    ids = header.metadata
    return {
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": hidden,
        "intermediate_size": _required(header, "feed_forward_length"),
        "num_hidden_layers": _required(header, "block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": _required(header, "attention.head_count_kv", n_heads),
        "head_dim": header.setting("attention.key_length", hidden // n_heads),
        "max_position_embeddings": _required(header, "context_length"),
        # 1e-05, not the digits of its float32
        "rms_norm_eps": float(str(np.float32(_required(header, "attention.layer_norm_rms_epsilon")))),
        "rope_parameters": _rope(header),
        # llama.cpp writes an output layer only if it is not the embedding.
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": ids.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ids.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": ids.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _required(header: Header, name: str, default: int | None = None) -> int:
    """Return a number that the file must state if there is no default, the same for all layers."""
    value = header.setting(name, default)
    if value is None:
        raise KeyError(f"{header.architecture}.{name}")
    if isinstance(value, list):
        raise UserError(
            f"{header.path} has another {name} in each layer, which is not supported; use the original model"
        )
    return value


def _rope(header: Header) -> dict[str, Any]:
    """Return the parameters of the rope."""
    rope = {"rope_type": "default", "rope_theta": float(header.setting("rope.freq_base", 10000.0))}
    kind = header.setting("rope.scaling.type", "none")
    factors = [tensor for tensor in header.tensors if tensor.name == ROPE_FACTORS]
    if factors and kind == "none":
        return _llama3_rope(header, rope, read_tensor(header.path, factors[0]))
    if kind == "none":
        return rope
    if kind not in ("linear", "yarn") or factors:
        raise UserError(
            f"{header.path} scales its rope in a way that is not supported ({kind}); use the original model"
        )
    rope |= {"rope_type": kind, "factor": float(_required(header, "rope.scaling.factor"))}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = _required(header, "rope.scaling.original_context_length")
    return rope


def _llama3_rope(header: Header, rope: dict[str, Any], factors: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the parameters that give these factors of the frequencies, which the file has in place of the parameters."""
    found = {**rope, "rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}
    head_dim = 2 * len(factors)
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, head_dim, 2) / head_dim)
    original = LLAMA3["original_max_position_embeddings"]
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    if not np.allclose(1 / factors, (1 - smooth) / found["factor"] + smooth, rtol=1e-4):
        raise UserError(
            f"{header.path} scales its rope in a way that is not supported: {ROPE_FACTORS} has other factors than Llama 3; "
            "use the original model"
        )
    return found


def _llama(header: Header) -> dict[str, Any]:
    names = {tensor.name for tensor in header.tensors}
    head_dim = header.setting("attention.key_length", header.setting("rope.dimension_count"))
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_down.bias" in names,
        **({"head_dim": head_dim} if head_dim else {}),
    }


def _qwen2(header: Header) -> dict[str, Any]:
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}


def _qwen3(header: Header) -> dict[str, Any]:
    return {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}


def _phi3(header: Header) -> dict[str, Any]:
    rotary = header.setting("rope.dimension_count")
    head_dim = _required(header, "embedding_length") // _required(header, "attention.head_count")
    found: dict[str, Any] = {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "sliding_window": header.setting("attention.sliding_window") or None,
        "original_max_position_embeddings": _required(header, "context_length"),
    }
    if rotary and rotary != head_dim:
        found["rope_parameters"] = {**_rope(header), "partial_rotary_factor": rotary / head_dim}
    return found


def _gemma(header: Header) -> dict[str, Any]:
    return {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}


def _gemma2(header: Header) -> dict[str, Any]:
    return {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "query_pre_attn_scalar": _gemma_scale(header, GEMMA2_27B_LAYERS),
        "sliding_window": _required(header, WINDOW),
        "attn_logit_softcapping": _required(header, "attn_logit_softcapping"),
        "final_logit_softcapping": _required(header, "final_logit_softcapping"),
    }


def _gemma_scale(header: Header, n_layers_27b: int) -> int:
    """Return what the scale of the scores derives from. The file does not state it: as llama.cpp does, know the one model
    that differs by its layers."""
    if _required(header, "block_count") == n_layers_27b:
        return _required(header, "embedding_length") // _required(header, "attention.head_count")
    return _required(header, "attention.key_length")


def _gemma3(header: Header) -> dict[str, Any]:
    """Return the configuration. Only every sixth layer has full attention, and the rope that the file describes."""
    n_layers = _required(header, "block_count")
    local = {"rope_type": "default", "rope_theta": float(header.setting("rope.freq_base_swa", 10000.0))}
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "query_pre_attn_scalar": _gemma_scale(header, GEMMA3_27B_LAYERS),
        "sliding_window": _required(header, WINDOW),
        "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(n_layers)],
        "rope_parameters": {"full_attention": _rope(header), "sliding_attention": local},
    }


Build = Callable[[Header], dict[str, Any]]
ARCHITECTURES: dict[str, tuple[Build, tuple[str, ...]]] = {
    "llama": (_llama, ()),
    "qwen2": (_qwen2, ()),
    "qwen3": (_qwen3, ()),
    "phi3": (_phi3, (WINDOW,)),
    "gemma": (_gemma, ()),
    "gemma2": (_gemma2, (WINDOW, "attn_logit_softcapping", "final_logit_softcapping")),
    "gemma3": (_gemma3, (WINDOW, "rope.freq_base_swa")),
}
"""The name in GGUF -> what builds its configuration, and the settings that only it may have."""
