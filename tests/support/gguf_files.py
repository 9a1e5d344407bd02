"""Small random models as GGUF files, with what llama.cpp's convert_hf_to_gguf.py does to their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama-tied": {"tie_word_embeddings": True, "head_dim": 16},
    "llama-bias": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False, "head_dim": 16},
    "phi3": {"tie_word_embeddings": False, "sliding_window": 5, "original_max_position_embeddings": 512},
    "gemma": {"tie_word_embeddings": True, "head_dim": 16},
    "gemma2": {
        "tie_word_embeddings": True,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 5,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {
        "tie_word_embeddings": True,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "num_hidden_layers": 7,
        "sliding_window": 5,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
}


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=(Path(__file__).parent / "templates" / "qwen2.jinja").read_text(),
    )


TOKENIZER = _tokenizer()
"""Each byte is a token, and so is each special one. Files have one more, "Ġa", because a list of merges cannot be empty."""
ARCHITECTURES = {"gemma3_text": "gemma3"}


def random_module(kind: str, **changes: Any) -> Any:
    """Return a random model of this kind, one of `SHAPES`, with biases and norms that are not their defaults."""
    common = {
        "vocab_size": len(TOKENIZER) + 1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
    }
    config = AutoConfig.for_model(kind.partition("-")[0], **{**common, **SHAPES[kind], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in module.named_parameters():
            if "norm" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return module


def quantized(values: np.ndarray[Any, Any], quantization: str) -> tuple[np.ndarray[Any, Any], Any]:
    """Return the bytes and type of a tensor as llama.cpp stores it: vectors are not quantized."""
    kind = gguf.GGMLQuantizationType[quantization if values.ndim > 1 else "F32"]
    return gguf.quantize(values, kind), kind


@torch.no_grad()
def dequantize(module: Any, quantization: str) -> None:
    """Replace each parameter by what is left of it in a file of this quantization."""
    for name, parameter in module.named_parameters():
        values = parameter.numpy()
        if "gemma" in module.config.model_type and name.endswith("norm.weight"):
            values = values + np.float32(1) - np.float32(1)
        found = gguf.dequantize(*quantized(values, quantization))
        parameter.copy_(torch.from_numpy(np.array(found, np.float32).reshape(parameter.shape)))


def write_gguf(
    file: Path, module: Any, quantization: str = "Q4_1", changes: dict[str, Any] | None = None, tokenizer: str = "qwen2"
) -> Path:
    """Write the model. `changes` are further settings, or others; None leaves one out. `tokenizer` says how it splits text;
    without it, there is none."""
    config = module.config
    arch = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(file, arch)
    for key, value in {**_settings(config, arch), **(changes or {})}.items():
        if value is not None:
            _add(writer, key, value)
    if tokenizer:
        _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch], config.num_hidden_layers)
    for name, parameter in module.named_parameters():
        values = parameter.detach().numpy()
        if arch == "llama" and ".q_proj." in name:
            values = _permute(values, config.num_attention_heads)
        if arch == "llama" and ".k_proj." in name:
            values = _permute(values, config.num_key_value_heads)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            values = values + np.float32(1)
        data, kind = quantized(np.ascontiguousarray(values), quantization)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=kind)
    _add_rope(writer, config, arch)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _permute(values: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """As `LlamaModel.permute` in llama.cpp."""
    halves = values.reshape(n_heads, 2, values.shape[0] // n_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _settings(config: Any, arch: str) -> dict[str, Any]:
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": rope.get("full_attention", rope)["rope_theta"],
    }
    if arch in ("qwen3", "gemma", "gemma2", "gemma3"):
        found |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if arch in ("llama", "phi3"):
        found["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1))
    if getattr(config, "sliding_window", None) and arch in ("phi3", "gemma2", "gemma3"):
        found["attention.sliding_window"] = config.sliding_window
    if arch == "gemma2":
        found["attn_logit_softcapping"] = config.attn_logit_softcapping
        found["final_logit_softcapping"] = config.final_logit_softcapping
    return {f"{arch}.{key}": value for key, value in found.items()}


def _add_rope(writer: Any, config: Any, arch: str) -> None:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    if rope["rope_type"] in ("linear", "yarn"):
        _add(writer, f"{arch}.rope.scaling.type", rope["rope_type"])
        _add(writer, f"{arch}.rope.scaling.factor", rope["factor"])
    if rope["rope_type"] == "yarn":
        _add(writer, f"{arch}.rope.scaling.original_context_length", rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        dim = 2 * len(scaled)
        plain = 1 / rope["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy())


def _add_tokenizer(writer: Any, split: str) -> None:
    ids = sorted(TOKENIZER.get_vocab().items(), key=lambda item: item[1])
    special = set(TOKENIZER.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([*(token for token, _ in ids), "Ġa"])
    writer.add_token_types([*(3 if token in special else 1 for token, _ in ids), 1])
    writer.add_token_merges(["Ġ a"])
    writer.add_eos_token_id(TOKENIZER.eos_token_id)
    writer.add_pad_token_id(TOKENIZER.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TOKENIZER.chat_template)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
