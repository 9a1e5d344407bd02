"""A causal language model of `transformers`, seen as the two things sampler and trainer need: hidden states and a head.

The log-probs of both are computed from the same pieces, in float32, so that they can be compared bit for bit.
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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ATTENTION = "sdpa"
"""Takes boolean masks; other implementations add them to their scores, which goes wrong in silence."""


@dataclass
class LanguageModel:
    """The module and its chat. Build it with `load_model`."""

    module: Any
    chat: Chat

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
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, H] and bias [V] of the output layer."""
        layer = self.module.get_output_embeddings()
        return layer.weight, getattr(layer, "bias", None)

    def hidden(self, ids_N_T: Tensor, positions_N_T: Tensor, mask: Any, cache: Any = None) -> Tensor:
        """Final hidden states [N, T, H]. Dropout is off; positions are always explicit."""
        out = self.module.base_model(
            input_ids=ids_N_T,
            position_ids=positions_N_T,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] in float32."""
        weight, bias = self.head
        return torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())


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
    # Stateless and exact from here on: no dropout in policy, trainer or reference (they would disagree).
    module.eval()
    module.to(device)
    chat = Chat(tokenizer, _stop_ids(module, tokenizer), _template(template), template_options or {})
    model = LanguageModel(module, chat)
    _check_head(model, path)
    return model


def _weights(path: str, dtype: torch.dtype, random_seed: int | None) -> Any:
    if random_seed is None:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=ATTENTION)
    config = AutoConfig.from_pretrained(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed)
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
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
def _check_head(model: LanguageModel, path: str) -> None:
    """Refuse models that scale, cap or otherwise change logits after their head: our log-probs would be others."""
    if not hasattr(model.module, "base_model") or model.module.get_output_embeddings() is None:
        raise UserError(f"{path!r} is not a causal language model with an output layer")
    ids = torch.arange(3, device=model.device)[None] % model.config.vocab_size
    positions = torch.arange(3, device=model.device)[None]
    mask = torch.ones_like(ids)
    whole = model.module(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits.float()
    ours = model.logits(model.hidden(ids, positions, mask))
    if ours.shape != whole.shape or not torch.allclose(ours, whole, rtol=0.02, atol=0.02 * float(whole.abs().max())):
        raise UserError(f"{path!r} changes its logits after the output layer, which is not supported")
