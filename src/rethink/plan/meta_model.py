"""Models on torch's device "meta", built from a configuration: their tensors have shapes but no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from rethink.errors import UserError
from rethink.models import bundled, lora
from rethink.models.forward.fused import is_llama_like
from rethink.models.forward.modules import KNOWN_LAYERS
from rethink.models.gguf.folder import info_folder
from rethink.models.gguf.locate import find, is_gguf
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.models.open_vision import freeze_tower, train_tower
from rethink.models.read_weights import model_class, refuse_quantized
from rethink.settings import Lora


def read_config(path: str, config: Path | None = None) -> Any:
    """Return the configuration of a folder, a GGUF file, a hub name or a model of the package; with `config`, of that
    config.json.

    Raise UserError if there is none, or if it is not of a causal language model.
    """
    if config is not None and not config.is_file():
        raise UserError(f"there is no file {config}")
    named = str(config if config is not None else bundled.resolve(path))
    if config is None and is_gguf(named):
        named = str(info_folder(find(named)))
    try:
        found = AutoConfig.from_pretrained(named)
        build_meta_model(found)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        hint = "" if config else "; use --config FILE with a config.json if the model is not on this machine"
        raise UserError(f"cannot read the configuration of {named!r}: {str(err).splitlines()[0]}{hint}") from err
    refuse_quantized(named, found)
    return found


def build_meta_model(
    config: Any, dtype: str = "float32", rank: int = 0, head_dtype: str = "auto", vision: str = "frozen"
) -> LanguageModel:
    """Return the model on device "meta", with LoRA adapters if `rank` is above 0, and without a chat template. `vision`
    says what is trained of its tower (`settings.Training`).

    Raise UserError if adapters need `peft` and it is not installed, and for a model without these parts of a tower.
    """
    with torch.device("meta"):
        module = model_class(config).from_config(config, dtype=DTYPES[dtype]).eval()
    freeze_tower(module)
    train_tower(module, vision)
    no_chat: Any = None
    model = LanguageModel(module, no_chat, is_llama_like(module), head_dtype=head_dtype)
    return lora.add_adapter(model, Lora(rank), 0) if rank else model


def keeps_its_attention(config: Any) -> bool:
    """Return whether a model with this configuration runs with its own attention and cache, as far as its parts tell."""
    module = build_meta_model(config).module
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    decoder = module.get_decoder() if hasattr(module, "get_decoder") else module
    has_convolution = any(isinstance(part, torch.nn.Conv1d) for part in decoder.modules())
    return has_convolution or not KNOWN_LAYERS.issuperset(kinds) or not decoder._supports_attention_backend
