"""Random models of many architectures, and tools to compare our forward pass with that of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.models.forward import FusedWeights, ModuleWeights, PackedAttention, PackedRow, Span, Weights
from rethink.models.forward.weights import logits
from support.samples import sdpa_attention

LLAMA_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 10}),
    "llama": ("llama", {}),
    "llama, no groups": ("llama", {"num_key_value_heads": 4}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, no padding": ("llama", {"pad_token_id": None}),
    "llama3 positions": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "yarn positions": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "qwen2, with biases": ("qwen2", {}),
    "qwen3, tied": ("qwen3", {"head_dim": 6, "tie_word_embeddings": True}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "qwen3, one window": (
        "qwen3",
        {
            "head_dim": 6,
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
}


NOT_LLAMA_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": 5}),
    "llama, bias after attention": ("llama", {"attention_bias": True}),
    "llama, bias of the mlp": ("llama", {"mlp_bias": True}),
    "llama, gelu": ("llama", {"hidden_act": "gelu"}),
    "longer positions": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}),
    # Llama's parts, combined differently: only comparing logits detects it.
    "granite": ("granite", {"residual_multiplier": 0.4, "embedding_multiplier": 3.0}),
}


ARCHITECTURES = {**LLAMA_LIKE, **NOT_LLAMA_LIKE}


def build(name: str) -> Any:
    """Return a random float32 module. Norms and biases are random, too: ones and zeros would hide their absence."""
    kind, changes = ARCHITECTURES[name]
    common = {
        "vocab_size": 31,
        "hidden_size": 24,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(kind, **{**common, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        module = AutoModelForCausalLM.from_config(config).eval()
        for p in module.parameters():
            if p.dim() == 1:
                p.data.add_(0.3 * torch.randn_like(p))
    return module


def weights_class(name: str) -> Callable[..., Weights]:
    return FusedWeights if name in LLAMA_LIKE else ModuleWeights


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_ids(n: int, seed: int = 3) -> Tensor:
    """Return random ids that include 0, the padding id of most models here."""
    ids = torch.randint(0, 31, (n,), generator=torch.Generator().manual_seed(seed))
    ids[n // 2] = 0
    return ids


def loss_of(hidden_T_H: Tensor, logits_T_V: Tensor) -> Tensor:
    """Return a loss to which every hidden state and logit contributes differently."""
    n = len(hidden_T_H)
    ids_T_1 = some_ids(n, seed=7)[:, None]
    picked_T = logits_T_V.log_softmax(-1).gather(-1, ids_T_1)[:, 0] * draw(n, seed=11)
    return picked_T.sum() + (hidden_T_H * draw(*hidden_T_H.shape)).mean()


def reference_hidden(module: Any, ids_T: Tensor) -> Tensor:
    """Return the hidden states that transformers computes with its own attention."""
    ids = ids_T[None]
    with sdpa_attention(module):
        hidden: Tensor = module.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0][0]
    return hidden


def one_row(n: int) -> PackedAttention:
    return PackedAttention([[PackedRow((Span(0, n),), n)]])


def hidden_of(weights: Weights, ids_T: Tensor) -> Tensor:
    return weights.hidden(ids_T, torch.arange(len(ids_T)), one_row(len(ids_T)))


def gradients_through(module: Any, weights: Weights, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of all parameters, computed the way the trainer does."""
    weights.backward_to_parameters(torch.autograd.grad(loss, weights.leaves, allow_unused=True))
    return parameter_gradients(module)


def parameter_gradients(module: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_gradients_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], share: float = 1e-4) -> None:
    """Check each tensor to within a fraction of its largest entry: float32 sums run in another order."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert tensor.abs().max() > 0, f"{name} must have a gradient"
        gap, size = float((ours[name] - tensor).abs().max()), float(tensor.abs().max())
        assert gap <= share * size, f"{name} is off by {gap / size}"


def loss(weights: Weights, ids_T: Tensor) -> Tensor:
    hidden_T_H = hidden_of(weights, ids_T)
    return loss_of(hidden_T_H, logits(hidden_T_H, weights.head))
