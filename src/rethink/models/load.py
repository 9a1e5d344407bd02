"""Load causal language models of `transformers`, and check that our forward pass gives the same logits.

Sampler and trainer use the same forward pass, with logits in float32, so their log-probs can be compared.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from rethink.errors import UserError
from rethink.models import bundled, hub, lora
from rethink.models.device import keep_freed_memory
from rethink.models.forward import PackedAttention, PackedRow, PlainWeights, Span
from rethink.models.forward.fused import is_llama_like
from rethink.models.forward.modules import own_attention
from rethink.models.forward.weights import logits
from rethink.models.gguf.folder import info_folder, model_folder
from rethink.models.gguf.locate import find, is_gguf
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.models.model_folder import check_folder, has_vocabulary, reason
from rethink.models.open_chat import check_vocabulary, open_chat
from rethink.models.open_vision import freeze_tower, open_vision
from rethink.models.read_weights import random_module, read_module
from rethink.models.vision import open_image_text

TOLERANCE = 0.02
"""How far our logits may be from the model's, as a share of the largest: bfloat16 rounds."""

MOST = 8
"""The tokens of a row with which our forward pass is compared."""

ALIGNMENT = 64
"""Bytes; how torch aligns memory on a CPU."""


def load_model(
    path: str,
    *,
    dtype: str = "float32",
    head_dtype: str = "auto",
    device: str = "cpu",
    template: str = "",
    template_options: dict[str, Any] | None = None,
    thinking: tuple[str, ...] = (),
    image_pixels: tuple[int, ...] = (),
    random_seed: int | None = None,
) -> LanguageModel:
    """Return a model by folder, GGUF file, hub name or the name of a shipped model ("tiny"), ready to sample and train.

    The path of a LoRA adapter gives its base with the adapter. With `random_seed`, only the configuration is read, and
    weights are drawn from the seed. `template` is "plain", "chatml" or the path of a template file; "" is the model's own.
    `thinking` holds marks beyond those of the common families, `image_pixels` bounds on the size of images.
    A checkpoint's files are compared with its manifest.

    Raise UserError when the model cannot be found or is damaged, when its chat template loses messages, or when our
    forward pass does not reproduce its logits.
    """
    path = source = bundled.resolve(path)
    base = base_source = None
    try:
        source = _open_folder(path, random_seed)
        base = lora.find_base(source)
        base_source = None if base is None else _open_base(base, path)
        module = _read_module(base_source or source, DTYPES[dtype], random_seed)
        tokenizer = find_tokenizer(source, base_source)
    except UserError:
        raise
    except Exception as err:  # the libraries raise errors of all kinds for files that they cannot read
        whose = f" that {path}/{lora.CONFIG} names as base_model_name_or_path" if base else ""
        raise UserError(f"cannot load the model {base or path!r}{whose}: {reason(err)}") from err
    if device == "cpu":
        keep_freed_memory()
    # No dropout: with it, policy, trainer and reference would disagree.
    module.eval()
    freeze_tower(module)
    module.to(device)
    _align(module)
    rows = int(module.get_input_embeddings().weight.shape[0])
    check_vocabulary(path, tokenizer, rows)
    image_text, no_images_because = open_image_text(base_source or source, module.config, image_pixels)
    chat = open_chat(path, tokenizer, _stop_ids(module, tokenizer), template, template_options or {}, rows, image_text)
    chat = replace(chat, thinking=thinking, no_images_because=no_images_because)
    model = choose_forward_pass(LanguageModel(module, chat, path=base or path, head_dtype=head_dtype))
    if image_text is not None:
        model = open_vision(model, image_text)
    if model.plain:
        warnings.warn(
            f"{path} runs with its own attention and cache, which is slower: in training, each prompt is computed once for "
            "each of its replies (docs/models.md)",
            stacklevel=2,
        )
    return model if base is None else choose_forward_pass(lora.load(model, source))


def _open_folder(path: str, random_seed: int | None = None) -> str:
    """Return the folder or hub name to load from. Raise UserError if files of the folder are missing or damaged."""
    if is_gguf(path):
        path = str((model_folder if random_seed is None else info_folder)(find(path)))
    if not Path(path).is_dir():
        return hub.folder_if_offline(path)
    check_folder(Path(path), needs_weights=random_seed is None)
    return path


def _open_base(base: str, adapter: str) -> str:
    try:
        return _open_folder(bundled.resolve(base))
    except UserError as err:
        raise UserError(f"{err} (the base that {adapter}/{lora.CONFIG} names as base_model_name_or_path)") from err


def _read_module(path: str, dtype: torch.dtype, random_seed: int | None) -> Any:
    if random_seed is not None:
        return random_module(path, dtype, random_seed)
    return read_module(path, dtype)


def find_tokenizer(path: str, base: str | None) -> Any:
    """Return the tokenizer of the folder or, if an adapter has none, of its base."""
    has_tokenizer = base is None or (Path(path) / "tokenizer_config.json").is_file()
    owner = path if has_tokenizer or base is None else base
    if Path(owner).is_dir() and not has_vocabulary(Path(owner)):
        raise UserError(
            f"{owner} has no tokenizer: copy its files (tokenizer.json, tokenizer_config.json) into the folder"
        )
    return AutoTokenizer.from_pretrained(owner, trust_remote_code=False)


def _align(module: Any) -> None:
    """Move weights on a CPU to addresses that are multiples of ALIGNMENT, as torch allocates them.

    Tensors mapped from a file may lie elsewhere; products then differ in the last bit, and so would a resumed run.
    """
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def _stop_ids(module: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a reply: those of the generation config and the tokenizer's EOS token."""
    ids = module.generation_config.eos_token_id
    found = set(ids) if isinstance(ids, list) else {ids}
    found = (found | {tokenizer.eos_token_id}) - {None}
    wrong = [i for i in found if not isinstance(i, int)]
    if wrong:
        raise UserError(f"eos_token_id in generation_config.json must be ids of tokens (numbers), not {wrong[0]!r}")
    return frozenset(found)


@torch.no_grad()
def choose_forward_pass(model: LanguageModel) -> LanguageModel:
    """Return the model with the fastest forward pass that reproduces its logits: fused, through its modules, or plain.

    Raise UserError if none does."""
    module = model.module
    kind = type(module).__name__
    if not hasattr(module, "base_model") or module.get_output_embeddings() is None:
        raise UserError(f"{model.path!r} is not a causal language model with an output layer ({kind})")
    reason = ""
    try:
        trial = _Trial(model)
        for model.fused, model.plain in ((True, False), (False, False), (False, True)):
            if model.fused and not is_llama_like(module):
                continue
            reason = _fault(trial, model)
            if not reason:
                return model
    except torch.OutOfMemoryError:
        raise
    except Exception as err:  # a module that fails by itself
        reason = f"it fails in transformers: {err}"
    raise UserError(f"{model.path!r} is not supported ({kind}): {reason}")


def _fault(trial: _Trial, model: LanguageModel) -> str:
    """Return why the forward pass that is chosen in the model cannot be used; "" if it can."""
    try:
        if not trial.passes(model):
            return "it changes its logits after the output layer in a way that we do not know"
        if model.plain:
            model.pads_left = trial.pads_left(model)
    except UserError as err:
        return str(err)
    except torch.OutOfMemoryError:
        raise
    except Exception as err:  # architectures that do not fit a forward pass fail in all kinds of ways
        return f"the forward pass with its own attention fails: {err}"
    return ""


class _Trial:
    """Compares our logits with the model's: of a short prompt, and of two replies to it in one flat sequence.

    With a single row, a layer that carries a state from row to row would go unnoticed."""

    def __init__(self, model: LanguageModel) -> None:
        prompt, a, b = _trial_lengths(model.max_positions or MOST)
        self.prompt, self.a, self.b = Span(0, prompt), Span(prompt, a), Span(prompt + a, b)
        self.ids_T = torch.arange(prompt + a + b, device=model.device) % model.n_embeddings
        module = model.module
        # A model with an adapter already has ours.
        module.config.get_text_config()._attn_implementation = own_attention(module)
        self.theirs: list[tuple[Tensor, Tensor]] = []  # by row: places in the flat sequence, and logits there
        for reply in (self.a, self.b):
            places = torch.cat([torch.arange(span.start, span.start + span.length) for span in (self.prompt, reply)])
            places = places.to(model.device)
            ids_1_T = self.ids_T[places][None]
            out = module(input_ids=ids_1_T, attention_mask=torch.ones_like(ids_1_T), use_cache=False)
            self.theirs.append((places, out.logits[0].float()))

    def passes(self, model: LanguageModel) -> bool:
        """Return whether the forward pass that is chosen in the model gives the model's logits."""
        replies = [PackedRow((self.prompt, reply), reply.length) for reply in (self.a, self.b)]
        attend = _Counted([[PackedRow((self.prompt,), self.prompt.length)], replies], model.device)
        positions = torch.arange(len(self.ids_T), device=model.device)
        positions[self.b.start :] -= self.a.length
        weights = model.weights(layers="on demand")
        ours_T_V = logits(weights.hidden(self.ids_T, positions, attend), weights.head)
        if not model.plain and attend.layers != list(range(len(attend.layers))):
            raise UserError("some of its layers have no attention")
        return all(_are_close(ours_T_V[places], theirs_T_V) for places, theirs_T_V in self.theirs)

    def pads_left(self, model: LanguageModel) -> bool:
        """Return whether padding before a prompt changes nothing. Raise UserError if its cache does not continue a row."""
        places, _ = self.theirs[0]
        n = len(places)
        starts = [n - 1, max(1, n // 2)]
        if self._continues(model, starts):
            return True
        if all(self._continues(model, [start]) for start in starts):
            return False
        raise UserError("its cache does not continue a row")

    def _continues(self, model: LanguageModel, starts: list[int]) -> bool:
        """Return whether the first row's logits are right after so many of its tokens, and after one more."""
        places, theirs_T_V = self.theirs[0]
        ids_T, weights = self.ids_T[places], model.weights()
        assert isinstance(weights, PlainWeights)
        before_N_H, state = weights.start([ids_T[:start].tolist() for start in starts])
        after_N_H = weights.step(ids_T[starts], state)
        ours_N_V = logits(torch.cat([before_N_H, after_N_H]), weights.head)
        theirs_N_V = theirs_T_V[[*(start - 1 for start in starts), *starts]]
        return _are_close(ours_N_V, theirs_N_V, 1e-3 if model.dtype == torch.float32 else TOLERANCE)


class _Counted(PackedAttention):
    """Attention that records the layers that call it."""

    def __init__(self, blocks: list[list[PackedRow]], device: torch.device) -> None:
        super().__init__(blocks, device)
        self.layers: list[int] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
        self.layers.append(layer)
        return super().__call__(layer, q, k, v, **how)


def _trial_lengths(n_positions: int) -> tuple[int, int, int]:
    """Return the tokens of the prompt and of two replies of different lengths, for a model with so many positions."""
    n = min(MOST, n_positions)
    a = max(1, n // 2)
    return n - a, a, max(1, a - 1)


def _are_close(ours_T_V: Tensor, theirs_T_V: Tensor, tolerance: float = TOLERANCE) -> bool:
    if ours_T_V.shape != theirs_T_V.shape:
        return False
    return torch.allclose(ours_T_V, theirs_T_V, rtol=tolerance, atol=tolerance * float(theirs_T_V.abs().max()))
