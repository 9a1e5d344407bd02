"""A causal language model of `transformers`, and the form in which sampler and trainer want its weights.

The log-probs of both come from the same forward pass, with the head in float32, so that they can be compared.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rethink.chat import PLAIN_TEMPLATE, Chat
from rethink.errors import UserError
from rethink.forward import FusedWeights, ModuleWeights, Packed, Row, Stretch, Weights
from rethink.forward.fused import is_llama_like
from rethink.forward.weights import logits
from rethink.machine import bfloat16_pays, keep_freed_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class LanguageModel:
    """The module and its chat. Build it with `load_model`. A `fused` model has Llama's layers, for which there is a faster
    forward pass than its modules."""

    module: Any
    chat: Chat
    fused: bool = False

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def device(self) -> torch.device:
        return self.module.get_output_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.get_output_embeddings().weight.dtype

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model has positions for, where its config says so."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def width(self) -> int:
        """The size H of a hidden state."""
        return int(self.module.get_output_embeddings().weight.shape[1])

    def weights(self, dtype: torch.dtype | None = None, *, trained: bool = False, recompute: bool = False) -> Weights:
        """The present weights, with matrices in this dtype (None: the model's own). What is not `trained` may be a copy,
        and does not follow later changes. With `recompute`, activations are computed again in the backward pass."""
        form = FusedWeights if self.fused else ModuleWeights
        return form(self.module, dtype or self.dtype, trained, recompute)


def pick_dtype(setting: str, model: LanguageModel) -> torch.dtype:
    """The dtype that a recipe asks for by name: "auto", "none" (the model's own), "float32" or "bfloat16"."""
    if setting == "auto":
        return torch.bfloat16 if bfloat16_pays(model.device, model.width) else model.dtype
    return model.dtype if setting == "none" else DTYPES[setting]


def load_model(
    path: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    template: str = "",
    template_options: dict[str, Any] | None = None,
    random_seed: int | None = None,
) -> LanguageModel:
    """A model by folder or hub name, ready to sample and to train.

    With `random_seed` only its configuration is used and the weights are drawn anew. `template` is "plain" or a file.
    Raises UserError when it cannot be found, has no chat template, or is not of a kind whose log-probs are trustworthy.
    """
    try:
        module = _weights(path, DTYPES[dtype], random_seed)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as err:
        raise UserError(f"cannot load the model {path!r}: {str(err).splitlines()[0]}") from err
    if device == "cpu":
        keep_freed_memory()
    # Stateless and exact from here on: no dropout in policy, trainer or reference (they would disagree).
    module.eval()
    module.to(device)
    chat = Chat(tokenizer, _stop_ids(module, tokenizer), _template(template), template_options or {})
    return checked(LanguageModel(module, chat), path)


def _weights(path: str, dtype: torch.dtype, random_seed: int | None) -> Any:
    if random_seed is None:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    config = AutoConfig.from_pretrained(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed)
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    with suppress(OSError):  # not every model has one
        module.generation_config = GenerationConfig.from_pretrained(path)
    return module


def _template(template: str) -> str | None:
    if not template:
        return None
    if template == "plain":
        return PLAIN_TEMPLATE
    file = Path(template)
    if not file.is_file():
        raise UserError(f'model.template is neither "plain" nor a file: {template}')
    text = file.read_text(encoding="utf-8", errors="replace")
    if "messages" not in text:
        raise UserError(f"{template} is not a chat template: it never mentions the messages")
    return text


def _stop_ids(module: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a reply: those of the generation config (there may be several) and the tokenizer's own."""
    config: GenerationConfig = module.generation_config
    ids = config.eos_token_id if config.eos_token_id is not None else []
    found = set(ids if isinstance(ids, list) else [ids])
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return frozenset(found)


@torch.no_grad()
def checked(model: LanguageModel, path: str) -> LanguageModel:
    """The model, fused if it can be. Refuses those that scale, cap or otherwise change logits after their head, or attend
    in ways of their own: our log-probs would be others."""
    if not hasattr(model.module, "base_model") or model.module.get_output_embeddings() is None:
        raise UserError(f"{path!r} is not a causal language model with an output layer")
    n = min(8, model.max_positions or 8)
    ids_T = torch.arange(n, device=model.device) % model.config.vocab_size
    whole = model.module(input_ids=ids_T[None], attention_mask=torch.ones_like(ids_T[None]), use_cache=False)
    for fused in (True, False) if is_llama_like(model.module) else (False,):
        model.fused = fused
        if _agrees(model, ids_T, whole.logits[0].float()):
            return model
    raise UserError(f"{path!r} changes its logits after the output layer, or attends otherwise: this is not supported")


def _agrees(model: LanguageModel, ids_T: Tensor, whole_T_V: Tensor) -> bool:
    row = Row((Stretch(0, len(ids_T)),), len(ids_T))
    weights = model.weights()
    ours = logits(
        weights.hidden(ids_T, torch.arange(len(ids_T), device=model.device), Packed([[row]], model.device)),
        weights.head,
    )
    near = 0.02 * float(whole_T_V.abs().max())
    return ours.shape == whole_T_V.shape and torch.allclose(ours, whole_T_V, rtol=0.02, atol=near)
