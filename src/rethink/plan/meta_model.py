"""A model without memory for its weights, from its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.errors import UserError
from rethink.models import lora, shipped
from rethink.models.forward.fused import is_llama_like
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.settings import Lora


def read_config(path: str, config: Path | None = None) -> Any:
    """The configuration of a folder, a hub name or one of the package's models; with `config`, that config.json instead.

    Raises UserError where there is none, or none of a causal language model.
    """
    if config is not None and not config.is_file():
        raise UserError(f"there is no file {config}")
    named = str(config if config is not None else shipped.resolve(path))
    try:
        found = AutoConfig.from_pretrained(named)
        build_meta_model(found)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        hint = "" if config else "; --config FILE takes the config.json of a model that is not at hand"
        raise UserError(f"cannot read the configuration of {named!r}: {str(err).splitlines()[0]}{hint}") from err
    return found


def build_meta_model(config: Any, dtype: str = "float32", rank: int = 0) -> LanguageModel:
    """The model on torch's device "meta", with adapters (LoRA) of this rank if it is above 0; it has no chat. Raises
    UserError where `peft` is missing for adapters."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa").eval()
    no_chat: Any = None
    model = LanguageModel(module, no_chat, is_llama_like(module))
    return lora.add_adapter(model, Lora(rank), 0) if rank else model
