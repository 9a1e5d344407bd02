"""What a model's folder says before its weights are loaded: its chat and its positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from rethink.errors import UserError
from rethink.models import bundled, hub, lora
from rethink.models.chat import Chat
from rethink.models.gguf.folder import info_folder
from rethink.models.gguf.locate import find_here, is_gguf
from rethink.models.load import find_tokenizer
from rethink.models.model_folder import check_folder, reason
from rethink.models.open_chat import check_vocabulary, open_chat
from rethink.models.positions import max_positions
from rethink.models.read_weights import opened_config, refuse_quantized
from rethink.models.vision import open_image_text
from rethink.settings import ModelSource


@dataclass(frozen=True)
class ModelInfo:
    """A model without its weights: its chat, the longest sequence that it has positions for (None: not known), and its
    configuration."""

    chat: Chat
    max_positions: int | None
    config: Any = None


def read_model_info(source: ModelSource) -> ModelInfo | None:
    """Return what is known of a model before it is loaded; None for a name on the hub that is not on this machine.
    The weights of a GGUF file are not dequantized for this.

    Raise UserError for a folder without a whole model, and for a chat template that loses messages."""
    path = bundled.resolve(source.path)
    folder = _folder(path)
    if folder is None:
        return None
    if folder == path:
        check_folder(Path(path), needs_weights=not source.random)
    base = lora.find_base(folder)
    base_folder = None if base is None else _folder(bundled.resolve(base)) or base
    try:
        whole: Any = AutoConfig.from_pretrained(base_folder or folder, trust_remote_code=False)
        refuse_quantized(base or path, whole)
        config = whole.get_text_config()
        tokenizer = find_tokenizer(folder, base_folder)
    except UserError:
        raise
    except Exception as err:  # the libraries raise errors of all kinds for files that they cannot read
        raise UserError(f"cannot load the model {base or path!r}: {reason(err)}") from err
    end = tokenizer.eos_token_id
    stop_ids = frozenset(
        {0 if end is None else end}
    )  # the generation config may name more; prompts do not depend on them
    rows = int(config.vocab_size)
    check_vocabulary(path, tokenizer, rows)
    opened = folder if base_folder is None else base_folder
    image_text, no_images_because = open_image_text(opened, opened_config(whole), source.image_pixels)
    chat = open_chat(path, tokenizer, stop_ids, source.template, source.template_options, rows, image_text)
    return ModelInfo(replace(chat, no_images_because=no_images_because), max_positions(config), config)


def _folder(path: str) -> str | None:
    """Return the folder with the model's configuration and tokenizer; None if it is not on this machine."""
    if is_gguf(path):
        file = find_here(path)
        return None if file is None else str(info_folder(file))
    return path if Path(path).is_dir() else hub.cached_folder(path)
