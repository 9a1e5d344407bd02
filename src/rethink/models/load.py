"""Load causal language models of `transformers`, and check that our forward pass gives the same logits.

Sampler and trainer use the same forward pass, with the output layer in float32, so their log-probs can be compared.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rethink.errors import UserError
from rethink.models import bundled, lora
from rethink.models.chat import TEMPLATES, Chat
from rethink.models.device import keep_freed_memory
from rethink.models.forward import PackedAttention, PackedRow, Span
from rethink.models.forward.fused import is_llama_like
from rethink.models.forward.weights import logits
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.models.sharded_weights import is_sharded

ALIGNMENT = 64
"""Bytes; how torch aligns memory on a CPU."""


def load_model(
    path: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    template: str = "",
    template_options: dict[str, Any] | None = None,
    random_seed: int | None = None,
) -> LanguageModel:
    """Return a model by folder, hub name or the name of a shipped model ("tiny"), ready to sample and train.

    The path of a LoRA adapter gives its base with the adapter. With `random_seed`, only the configuration is read, and
    weights are drawn from the seed. `template` is "plain", "chatml" or the path of a template file; "" is the model's own.

    Raise UserError when the model cannot be found, has no chat template, or when our forward pass does not reproduce its
    logits.
    """
    path = bundled.resolve(path)
    base = lora.find_base(path)
    try:
        module = _weights(base or path, DTYPES[dtype], random_seed)
        has_tokenizer = base is None or (Path(path) / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(path if has_tokenizer else base)
    except (OSError, ValueError, SafetensorError) as err:
        whose = f" that {path}/{lora.CONFIG} names as base_model_name_or_path" if base else ""
        raise UserError(f"cannot load the model {base or path!r}{whose}: {str(err).splitlines()[0]}") from err
    if device == "cpu":
        keep_freed_memory()
    # No dropout: with it, policy, trainer and reference would disagree.
    module.eval()
    module.to(device)
    _align(module)
    chat = Chat(tokenizer, _stop_ids(module, tokenizer), _template(template), template_options or {})
    model = choose_forward_pass(LanguageModel(module, chat, path=base or path))
    return model if base is None else choose_forward_pass(lora.load(model, path))


def _weights(path: str, dtype: torch.dtype, random_seed: int | None) -> Any:
    if random_seed is None and is_sharded(Path(path)):
        return from_shards(Path(path)).to(dtype)
    if random_seed is None:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    config = AutoConfig.from_pretrained(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed)
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    with suppress(OSError):  # not every model has one
        module.generation_config = GenerationConfig.from_pretrained(path)
    return module


def from_shards(checkpoint: Path) -> Any:
    """Return one float32 module from a checkpoint that several processes wrote."""
    from rethink.models.sharded_weights import read_weights  # imported here: it takes half a second

    config = AutoConfig.from_pretrained(checkpoint)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    read_weights(checkpoint, module)
    module.generation_config = GenerationConfig.from_pretrained(checkpoint)
    return module


def _align(module: Any) -> None:
    """Move weights on a CPU to addresses that are multiples of ALIGNMENT, as torch allocates them.

    Tensors mapped from a file may lie elsewhere; products then differ in the last bit, and so would a resumed run.
    """
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def _template(template: str) -> str | None:
    if not template:
        return None
    if template in TEMPLATES:
        return TEMPLATES[template]
    file = Path(template)
    if not file.is_file():
        raise UserError(f'model.template is not "plain", "chatml" or a file: {template}')
    text = file.read_text(encoding="utf-8", errors="replace")
    if "messages" not in text:
        raise UserError(f"{template} is not a chat template: it does not use `messages`")
    return text


def _stop_ids(module: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a reply: those of the generation config and the tokenizer's EOS token."""
    ids = module.generation_config.eos_token_id
    found = set(ids) if isinstance(ids, list) else {ids}
    found.add(tokenizer.eos_token_id)
    return frozenset(found - {None})


@torch.no_grad()
def choose_forward_pass(model: LanguageModel) -> LanguageModel:
    """Return the model, with `fused` set if its layers allow it.

    Raise UserError if neither forward pass reproduces the model's logits: it changes them after the output layer (soft
    caps, scaling), or uses an attention that we do not support."""
    module = model.module
    if not hasattr(module, "base_model") or module.get_output_embeddings() is None:
        raise UserError(f"{model.path!r} is not a causal language model with an output layer")
    n = min(8, model.max_positions or 8)
    ids_T = torch.arange(n, device=model.device) % model.config.vocab_size
    module.config._attn_implementation = "sdpa"  # a model with an adapter already has our attention
    theirs = module(input_ids=ids_T[None], attention_mask=torch.ones_like(ids_T[None]), use_cache=False)
    for fused in (True, False):
        model.fused = fused
        if (is_llama_like(module) or not fused) and _gives_same_logits(model, ids_T, theirs.logits[0].float()):
            return model
    raise UserError(
        f"{model.path!r} is not supported: it changes its logits after the output layer, or has an unusual attention"
    )


def _gives_same_logits(model: LanguageModel, ids_T: Tensor, theirs_T_V: Tensor) -> bool:
    n = len(ids_T)
    attend = PackedAttention([[PackedRow((Span(0, n),), n)]], model.device)
    weights = model.weights()
    ours_T_V = logits(weights.hidden(ids_T, torch.arange(n, device=model.device), attend), weights.head)
    atol = 0.02 * float(theirs_T_V.abs().max())
    return ours_T_V.shape == theirs_T_V.shape and torch.allclose(ours_T_V, theirs_T_V, rtol=0.02, atol=atol)
