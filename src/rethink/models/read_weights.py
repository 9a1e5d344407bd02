"""Read a model's weights: all of them, each with the shape that the configuration says, and finite.

`transformers` draws missing weights at random and only warns of it. Here this is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import logging

from rethink.errors import UserError
from rethink.models.forward.embedding import has_vision_tower
from rethink.models.sharded_weights import is_sharded, read_weights

SHOWN = 3
"""How many names of tensors a message lists."""


def model_class(config: Any) -> Any:
    """Return the auto class that opens a model with this configuration: with its vision tower only if it has no class for
    text alone."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def opened_config(config: Any) -> Any:
    """Return the configuration that the opened module has: that of the text if its class is for text alone."""
    if not has_vision_tower(config) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    text, opened = config.get_text_config(), MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].config_class
    return text if opened is type(text) else config


def read_module(path: str, dtype: torch.dtype) -> Any:
    """Return the module of a folder or hub name with its weights. Raise UserError if they do not fit its configuration."""
    module = _from_shards(Path(path)).to(dtype) if is_sharded(Path(path)) else _from_files(path, dtype)
    check_finite(path, module)
    return module


def random_module(path: str, dtype: torch.dtype, seed: int) -> Any:
    """Return the module of a configuration, with weights drawn from the seed."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = model_class(config).from_config(config, dtype=dtype)
    with suppress(OSError):  # not every model has one
        module.generation_config = GenerationConfig.from_pretrained(path)
    return module


def check_finite(path: str, module: Any) -> None:
    """Raise UserError if a weight is NaN or infinite, or if the embedding is all zeros (as in a half-written file)."""
    for name, p in module.named_parameters():
        if p.device.type != "meta" and not bool(p.isfinite().all()):
            raise UserError(
                f"the weight {name} of {path} contains NaN or infinite values: the file is damaged, or the training that "
                "wrote it diverged; use an earlier or another copy"
            )
    embedding = module.get_input_embeddings().weight
    if embedding.device.type != "meta" and not bool(embedding.any()):
        raise UserError(f"the embedding of {path} is all zeros: the file is damaged; copy or download it again")


def _from_files(path: str, dtype: torch.dtype) -> Any:
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    refuse_quantized(path, config)
    # In some files; it may need a package, and is not used. None: the fastest that the model has without one.
    config.__dict__.pop("attn_implementation", None)
    config._attn_implementation = None
    with _without_reports():
        module, report = model_class(config).from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, all at once
            output_loading_info=True,
        )
    missing, unexpected = sorted(report["missing_keys"]), _own_names(module, report["unexpected_keys"])
    faults = [
        f"{name} has shape {list(found)}, not {list(wanted)}"
        for name, found, wanted in sorted(report["mismatched_keys"])
    ]
    faults = [_listed(faults)] if faults else []
    if missing:
        faults.append(f"missing: {_listed(missing)}")
    if unexpected:
        faults.append(f"not in this architecture: {_listed(unexpected)}")
    if faults or report["error_msgs"]:
        raise UserError(
            f"the weights of {path} do not fit its config.json ({type(module).__name__}): "
            f"{'; '.join([*faults, *report['error_msgs']])}. Copy or download the folder again, or correct its config.json"
        )
    return module


def _from_shards(checkpoint: Path) -> Any:
    """Return one float32 module from a checkpoint that several processes wrote."""
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    module = model_class(config).from_config(config, dtype=torch.float32)
    read_weights(checkpoint, module)
    module.generation_config = GenerationConfig.from_pretrained(checkpoint)
    return module


def refuse_quantized(path: str, config: Any) -> None:
    """Raise UserError if a configuration says that the weights are quantized."""
    settings = getattr(config, "quantization_config", None)
    if settings:
        method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
        raise UserError(
            f"the weights of {path} are quantized ({method}), which is not supported; use the original model"
        )


def _own_names(module: Any, names: Sequence[str]) -> list[str]:
    """Return the unexpected tensors that lie in the parts of this model: others (a value head, say) are not used."""
    own = {module.base_model_prefix, "lm_head", *(name for name, _ in module.base_model.named_children())}
    return sorted(name for name in names if name.partition(".")[0] in own)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@contextmanager
def _without_reports() -> Iterator[None]:
    """Silence the library's report of weights that do not fit."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
