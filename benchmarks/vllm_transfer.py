"""Bytes and seconds of an update of vLLM's weights: the adapter alone against merged weights.

Usage, in an environment with vLLM: python benchmarks/vllm_transfer.py OUT

A random model of Qwen2's shape (about 100 million weights, float32, on a CPU) with an adapter of rank 16 on all layers is
published to a colocated vLLM a few times, each way.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.models import lora, make_tiny
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.vllm.start import open_vllm
from rethink.settings import Lora, Sampler
from rethink.types import Sampling

SHAPE = {
    **{"hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 13, "num_attention_heads": 12},
    **{"num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": True},
}
N_UPDATES = 7


def make_model(folder: Path) -> LanguageModel:
    """Write the random model, and return it with an adapter."""
    words = make_tiny.tokenizer()
    config = AutoConfig.for_model("qwen2", vocab_size=len(words), eos_token_id=words.eos_token_id, **SHAPE)
    torch.manual_seed(11)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return lora.add_adapter(load_model(str(folder)), Lora(rank=16), seed=5)


def measure(transfer: Literal["adapter", "merged"], model: LanguageModel, folder: Path) -> None:
    """Print bytes per update and seconds of each."""
    settings = Sampler("vllm", max_prompt_tokens=64, cache_gib=0.0625, transfer=transfer)
    policy = open_vllm(settings, model, [Sampling(max_tokens=64)], path=str(folder))
    seconds = []
    for version in range(1, N_UPDATES + 1):
        start = time.perf_counter()
        policy.publish(version)
        seconds.append(time.perf_counter() - start)
    policy.close()
    sent = lora.adapter_parameters(model.module).items() if transfer == "adapter" else lora.named_weights(model)
    n_bytes = sum(weight.numel() * 4 for _, weight in sent)
    low, middle, high = min(seconds[1:]), statistics.median(seconds[1:]), max(seconds[1:])
    print(f"{transfer}: {n_bytes / 1e6:.1f} MB, {middle:.2f} s ({low:.2f} to {high:.2f}), first {seconds[0]:.2f} s")


def main() -> None:
    folder = Path(sys.argv[1])
    model = make_model(folder)
    print(f"{sum(p.numel() for p in model.module.parameters() if not p.requires_grad) / 1e6:.0f} million weights")
    measure("adapter", model, folder)
    measure("merged", model, folder)


if __name__ == "__main__":
    main()
