"""The sizes of a model from its configuration alone: it is built without memory for its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.models import shipped
from rethink.plan.shape import Shape


def read_shape(path: str, config: Path | None = None) -> Shape:
    """Of a folder, a hub name or one of the package's models; with `config`, of that config.json instead.

    Raises UserError where there is no configuration, or none of a causal language model.
    """
    from transformers import AutoConfig

    named = str(config if config is not None else shipped.find(path))
    if config is not None and not config.is_file():
        raise UserError(f"there is no file {config}")
    try:
        return shape_of(AutoConfig.from_pretrained(named))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        hint = "" if config else "; --config FILE takes the config.json of a model that is not at hand"
        raise UserError(f"cannot read the configuration of {named!r}: {str(err).splitlines()[0]}{hint}") from err


def shape_of(config: Any) -> Shape:
    """The sizes of a `transformers` configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    from rethink.models.forward.fused import is_llama_like

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    head, embedding = module.get_output_embeddings().weight, module.get_input_embeddings().weight
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Shape(
        hidden=int(config.hidden_size),
        n_layers=int(config.num_hidden_layers),
        n_heads=heads,
        n_kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=head_dim,
        intermediate=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        vocabulary=int(head.shape[0]),
        n_parameters=sum(p.numel() for p in module.parameters()),
        tied=head is embedding,
        qk_norm=any(name.endswith("q_norm") for name, _ in module.named_modules()),
        fused=is_llama_like(module),
    )
