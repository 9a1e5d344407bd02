"""Let a loaded model take images: freeze or train its tower, and compare our logits after an image with the model's own."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.images import FIRST_ID, Image, read_image
from rethink.models.forward.attention import PackedAttention, PackedRow, Span
from rethink.models.forward.embedding import (
    positions_of,
    projector_parameters,
    put_tower,
    tower_parameters,
    trained_tower,
)
from rethink.models.forward.modules import own_attention
from rethink.models.forward.weights import logits
from rethink.models.language_model import LanguageModel
from rethink.models.vision.image_text import ImageText
from rethink.models.vision.image_vectors import ImageVectors
from rethink.types import Message

TOLERANCE, ROUNDED = 1e-3, 0.02
"""How far our logits may be from the model's, as a share of the largest: in float32, and in bfloat16."""

TYPES = ("mm_token_type_ids", "token_type_ids")
"""The names that models have for an argument that marks the tokens of images."""


def freeze_tower(module: Any) -> None:
    """Freeze everything but the language model and its output layer."""
    for p in tower_parameters(module):
        p.requires_grad_(False)


def train_tower(module: Any, parts: str) -> None:
    """Train what `training.vision` names of a frozen tower: "all" of it, its "projector", or nothing ("frozen").

    Raise UserError if the model does not have it."""
    if parts == "frozen":
        return
    trained = (projector_parameters if parts == "projector" else tower_parameters)(module)
    if not trained:
        has_tower = bool(tower_parameters(module))
        why = "the name of none of its parts is known as a projector's" if has_tower else "it has no vision tower"
        raise UserError(
            f'training.vision = "{parts}" does not fit the model ({type(module).__name__}): {why}; set it to '
            + ('"all" or "frozen"' if has_tower else '"frozen"')
        )
    for p in trained:
        p.requires_grad_(True)


def share_tower(model: LanguageModel, owner: LanguageModel) -> LanguageModel:
    """Return a model that shares the frozen tower of another, and its vectors of images: these are then held once. A model
    whose tower is a different one, or whose `owner` trains it, stays as it is."""
    own, shared = tower_parameters(model.module), tower_parameters(owner.module)
    if not own or len(own) != len(shared) or trained_tower(owner.module) or not all(map(_are_equal, own, shared)):
        return model
    put_tower(model.module, shared)
    return replace(model, image_vectors=owner.image_vectors or model.image_vectors)


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.device == b.device and a.dtype == b.dtype and torch.equal(a, b))


def open_vision(model: LanguageModel, text: ImageText) -> LanguageModel:
    """Return the model with the vectors of images if our forward pass is right with them; else without, and its chat says
    why it takes no images. Both kinds of attention within an image are tried: causal, and in both directions (Gemma 3)."""
    reason = ""
    for both_ways in (False, True):
        with_images = replace(model, image_vectors=ImageVectors(model.module, text, both_ways=both_ways))
        reason = _fault(replace(with_images, head_dtype="float32"))  # what the head rounds is no fault
        if not reason:
            return with_images
    return replace(model, chat=replace(model.chat, image_text=None, no_images_because=reason))


def _fault(model: LanguageModel) -> str:
    """Return why images cannot be used; "" if they can."""
    kind = type(model.module).__name__
    if model.plain:
        return f"images are not supported for models that run with their own attention and cache ({kind})"
    try:
        ours_T_V, theirs_T_V = _logits(model, _example())
    except UserError as err:
        return str(err)
    except torch.OutOfMemoryError:
        raise
    except Exception as err:  # towers and processors fail in all kinds of ways
        return f"its pass over an image fails in transformers ({kind}): {err}"
    largest = float(theirs_T_V.abs().max())
    tolerance = TOLERANCE if model.dtype == torch.float32 else ROUNDED
    if float((ours_T_V - theirs_T_V).abs().max()) <= tolerance * largest:
        return ""
    return f"our forward pass does not give its logits after an image ({kind})"


@torch.no_grad()
def _logits(model: LanguageModel, image: Image) -> tuple[Tensor, Tensor]:
    """Return our logits and the model's own [T, V] of a prompt with an image."""
    assert model.image_vectors is not None
    ids = model.chat.encode((Message("user", "What is in this image?", (image,)),))
    ids_T = torch.tensor(ids, device=model.device)
    is_image_T = ids_T >= FIRST_ID
    n = len(ids)
    attend = PackedAttention([[PackedRow((Span(0, n),), n)]], model.device)
    weights = model.weights(layers="on demand")
    positions = torch.tensor(positions_of(ids, model.image_vectors)[0], device=model.device)
    ours_T_V = logits(weights.hidden(ids_T, positions, attend), weights.head)
    text, module = model.image_vectors.text, model.module
    given: dict[str, Any] = {}
    for name, value in text.inputs(image).items():
        given[name] = value.to(model.device) if isinstance(value, Tensor) else value
        if isinstance(value, Tensor) and value.is_floating_point():
            given[name] = value.to(model.device, model.dtype)
    for name in TYPES:
        if name in signature(module.forward).parameters:
            given[name] = is_image_T.long()[None]
    config = module.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = own_attention(module)
    try:
        ids_1_T = ids_T.masked_fill(is_image_T, text.token_id)[None]
        out = module(input_ids=ids_1_T, attention_mask=torch.ones_like(ids_1_T), use_cache=False, **given)
    finally:
        config._attn_implementation = before
    return ours_T_V, out.logits[0].float()


def _example() -> Image:
    """Return an image with something in every corner, not square."""
    import PIL.Image

    pil_image = PIL.Image.new("RGB", (60, 40))
    for x in range(60):
        for y in range(40):
            pil_image.putpixel((x, y), (4 * x, 6 * y, (x * y) % 256))
    return read_image(pil_image, "the example image")
