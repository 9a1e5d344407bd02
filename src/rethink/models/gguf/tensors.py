"""The tensors of a GGUF file: dequantized, under the names and in the order of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.errors import UserError
from rethink.models.gguf.header import Header, TensorInfo

SHOWN = 3
"""How many names of tensors a message lists."""
ROPE_FACTORS = "rope_freqs.weight"
"""The factors by which Llama 3.1 and later divide the frequencies of their rope: part of the configuration."""


def read_tensor(path: Path, info: TensorInfo) -> np.ndarray[Any, Any]:
    """Return a tensor of the file in float32."""
    import gguf

    kind = gguf.GGMLQuantizationType[info.kind]
    data = np.fromfile(path, np.uint8, info.n_bytes, offset=info.start)
    rows = data.reshape(*info.shape[:-1], -1)
    return np.asarray(gguf.dequantize(rows, kind), np.float32).reshape(info.shape)


def match(header: Header, config: dict[str, Any]) -> dict[str, TensorInfo]:
    """Return the file's tensor for each parameter of the model.

    Raise UserError if one is missing or has another shape, and for tensors that the model does not have."""
    import gguf

    settings = dict(config)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == header.architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    infos = {tensor.name: tensor for tensor in header.tensors}
    infos.pop(ROPE_FACTORS, None)
    found: dict[str, TensorInfo] = {}
    faults: list[str] = []
    for name, parameter in module.named_parameters():  # a tied head is none
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        info = infos.pop(own or "", None)
        if info is None:
            faults.append(f"{own or name} is missing")
        elif info.shape != tuple(parameter.shape):
            faults.append(f"{own} has shape {list(info.shape)}, not {list(parameter.shape)}")
        else:
            found[name] = info
    for name in infos:
        faults.append(f"{name} is not part of this architecture")
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(
            f"the tensors of {header.path} do not fit its settings ({header.architecture}): {'; '.join(faults[:SHOWN])}"
            f"{more}; download it again, or use the original model"
        )
    return found


def convert(header: Header, config: dict[str, Any], name: str, info: TensorInfo) -> Tensor:
    """Return a parameter of the model in float32, with what llama.cpp changes when it writes a file undone."""
    values = read_tensor(header.path, info)
    if header.architecture == "llama" and ".self_attn.q_proj." in name:
        values = _split_pairs(values, config["num_attention_heads"])
    if header.architecture == "llama" and ".self_attn.k_proj." in name:
        values = _split_pairs(values, config["num_key_value_heads"])
    if header.architecture.startswith("gemma") and name.endswith("norm.weight"):
        values = values - np.float32(1)  # the library adds it in the forward pass
    return torch.from_numpy(np.ascontiguousarray(values))


def _split_pairs(values: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """Return the rows of each head in the library's order: llama.cpp's rope rotates neighbors, the library's halves."""
    pairs = values.reshape(n_heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
