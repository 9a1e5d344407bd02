"""A small random model of each family that the forward passes are tested with, and the forward pass that it should get."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.models.chat import Chat
from rethink.models.language_model import LanguageModel
from rethink.models.load import choose_forward_pass

V = 61
"""The size of the vocabulary; a prime, to find sizes that are mixed up."""


class Family(NamedTuple):
    """The name of a configuration in `transformers`, changes to the common sizes, and the expected forward pass."""

    kind: str
    changes: dict[str, Any]
    path: str


WINDOWED = ["sliding_attention", "full_attention"] * 2
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
DELTA = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

FAMILIES = {
    "Llama": Family("llama", {}, "fused"),
    "Mistral": Family("mistral", {"sliding_window": 5}, "fused"),
    "Qwen2": Family("qwen2", {}, "fused"),
    "Qwen3": Family("qwen3", {"head_dim": 8}, "fused"),
    "Qwen3-MoE": Family("qwen3_moe", {"head_dim": 8, **MOE}, "modules"),
    "Gemma 2": Family(
        "gemma2",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 5,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
        },
        "modules",
    ),
    "Gemma 3": Family("gemma3_text", {"head_dim": 8, "sliding_window": 5, "layer_types": WINDOWED}, "modules"),
    "Gemma 3 with images": Family(
        "gemma3",
        {
            "text_config": {
                "head_dim": 8,
                "sliding_window": 5,
                "layer_types": WINDOWED,
            },
            "vision_config": VISION,
        },
        "modules",
    ),
    "Gemma 4": Family(
        "gemma4_text",
        {
            "head_dim": 8,
            "global_head_dim": 16,
            "sliding_window": 5,
            "layer_types": WINDOWED,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": V,
            "num_kv_shared_layers": 2,
            "final_logit_softcapping": 2.0,
        },
        "modules",
    ),
    "GPT-OSS": Family(
        "gpt_oss",
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "layer_types": WINDOWED,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        },
        "modules",
    ),
    "Llama 4": Family(
        "llama4_text",
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "intermediate_size_mlp": 32,
            "attention_chunk_size": 5,
            "floor_scale": 3,
            "layer_types": [*["chunked_attention"] * 3, "full_attention"],
        },
        "modules",
    ),
    "Cohere": Family("cohere", {"logit_scale": 0.25}, "modules"),
    "Cohere2": Family(
        "cohere2", {"head_dim": 8, "logit_scale": 0.25, "sliding_window": 5, "layer_types": WINDOWED}, "modules"
    ),
    "Granite": Family(
        "granite", {"logits_scaling": 3.0, "residual_multiplier": 0.4, "embedding_multiplier": 3.0}, "modules"
    ),
    "Granite MoE": Family("granitemoe", {"logits_scaling": 3.0, "num_local_experts": 4}, "modules"),
    "Phi-3": Family("phi3", {"sliding_window": 5}, "modules"),
    "Phi-3 with LongRoPE": Family(
        "phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 100.0,
                "original_max_position_embeddings": 64,
                "short_factor": [1.0, 1.5, 2.0, 2.5],
                "long_factor": [4.0, 5.0, 6.0, 7.0],
            },
        },
        "modules",
    ),
    "OLMo 2": Family("olmo2", {}, "modules"),
    "OLMo 3": Family("olmo3", {"sliding_window": 5, "layer_types": WINDOWED}, "modules"),
    "DeepSeek-V3": Family(
        "deepseek_v3",
        {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
        },
        "modules",
    ),
    "GLM-4 MoE": Family(
        "glm4_moe",
        {
            "head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
        },
        "modules",
    ),
    "SmolLM3": Family("smollm3", {}, "modules"),
    "StarCoder2": Family("starcoder2", {"sliding_window": 5}, "modules"),
    "GPT-NeoX": Family("gpt_neox", {}, "modules"),
    "GPT-2": Family("gpt2", {}, "modules"),
    "OPT": Family("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, "modules"),
    "ERNIE 4.5": Family("ernie4_5", {"head_dim": 8}, "modules"),
    "Hunyuan": Family("hunyuan_v1_dense", {"head_dim": 8}, "modules"),
    "Seed-OSS": Family("seed_oss", {"head_dim": 8}, "fused"),
    "EXAONE 4": Family("exaone4", {"sliding_window": 5, "layer_types": WINDOWED}, "modules"),
    "Qwen3-Next": Family("qwen3_next", {"shared_expert_intermediate_size": 16, **DELTA, **MOE}, "plain"),
    "Qwen3.5": Family("qwen3_5_text", DELTA, "plain"),
    "Qwen3.5-MoE": Family("qwen3_5_moe_text", {"shared_expert_intermediate_size": 16, **DELTA, **MOE}, "plain"),
    "Granite hybrid": Family(
        "granitemoehybrid",
        {
            **MAMBA,
            "layer_types": ["mamba", "attention"] * 2,
            "num_local_experts": 4,
            "shared_intermediate_size": 32,
            "logits_scaling": 3.0,
        },
        "plain",
    ),
    "Falcon-H1": Family("falcon_h1", {**MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5, "head_dim": 8}, "plain"),
    "Bamba": Family("bamba", {**MAMBA, "attn_layer_indices": [1, 3]}, "plain"),
    "Jamba": Family(
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        "plain",
    ),
    "Nemotron-H": Family(
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "mlp", "attention", "moe"],
            "head_dim": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 2,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
        },
        "plain",
    ),
    "MiniMax": Family(
        "minimax",
        {
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "block_size": 4,
            "num_local_experts": 4,
        },
        "plain",
    ),
    "LFM2": Family("lfm2", {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}, "plain"),
    "Mamba 2": Family(
        "mamba2",
        {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 2, "chunk_size": 8},
        "plain",
    ),
    "Falcon": Family("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, "plain"),
    "GPT-Neo": Family("gpt_neo", {"num_heads": 4, "num_layers": 4, "attention_types": [[["global"], 4]]}, "plain"),
    "BLOOM": Family("bloom", {"n_head": 4, "n_layer": 4}, "plain"),
    "MiMo-V2": Family(
        "mimo_v2_flash", {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, "modules"
    ),
    "nanochat": Family("nanochat", {}, "modules"),
}


def build_config(kind: str, changes: dict[str, Any]) -> Any:
    """Return a small configuration of a kind."""
    common = {
        "vocab_size": V,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    given = {**common, **changes}
    if "text_config" in changes:
        given = {**changes, "text_config": {**common, **changes["text_config"]}}
    return AutoConfig.for_model(kind, **given)


def build_module(kind: str, changes: dict[str, Any]) -> Any:
    """Return a random float32 module. Its vectors are random, too: ones would hide faults."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(13)
        module = AutoModelForCausalLM.from_config(build_config(kind, changes)).eval()
        for p in module.parameters():
            if p.dim() == 1 or not bool(p.isfinite().all()):
                p.copy_(p.nan_to_num(0, 0, 0) + 0.3 * torch.randn_like(p))
    return module


def build_family(name: str) -> LanguageModel:
    """Return a random model with its forward pass chosen."""
    kind, changes, _ = FAMILIES[name]
    chat = Chat.__new__(Chat)
    chat.stop_ids = frozenset({1})
    return choose_forward_pass(LanguageModel(build_module(kind, changes), chat, path=name))
