"""Small random models of several architectures; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.models import make_tiny

SHAPES = {
    "qwen3": {"num_key_value_heads": 2, "head_dim": 6},
    "llama": {"num_key_value_heads": 2},
    "gpt2": {},
}


def save_random_model(folder: Path, kind: str, **changes: object) -> Path:
    """Write a random model (hidden size 20, 2 layers) with the demo's tokenizer; return its folder."""
    words = make_tiny.tokenizer()
    common = {
        "vocab_size": len(words),
        "hidden_size": 20,
        "intermediate_size": 31,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": None,
        # Large enough for peaked distributions: log-probs then reveal a wrong computation.
        "initializer_range": 0.3,
    }
    config = AutoConfig.for_model(kind, **{**common, **SHAPES.get(kind, {}), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
