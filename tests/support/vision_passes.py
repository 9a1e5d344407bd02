"""Passes of a vision-language model's own modules over pixels, to compare ours with."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.images import Image
from rethink.models.language_model import LanguageModel
from rethink.types import Message, Sample
from support.samples import sdpa_attention


def images_of(messages: tuple[Message, ...]) -> list[Image]:
    return [shown for message in messages for shown in message.images]


def own_inputs(model: LanguageModel, messages: tuple[Message, ...]) -> dict[str, Tensor]:
    """Return what the model's own processor makes of a conversation."""
    processor = model.chat.image_text.processor  # type: ignore[union-attr]
    pil_images = [shown.open() for shown in images_of(messages)]
    text = model.chat.render(messages)
    return dict(processor(images=pil_images or None, text=[text], return_tensors="pt", add_special_tokens=False))


def own_log_probs(model: LanguageModel, sample: Sample, messages: tuple[Message, ...]) -> Tensor:
    """Return the log-probs [T] from one pass of the whole module, tower included, over one conversation."""
    inputs = own_inputs(model, messages)
    ids_1_T = torch.cat([inputs.pop("input_ids"), torch.tensor([sample.ids])], 1)
    inputs["attention_mask"] = torch.ones_like(ids_1_T)
    for kind in set(inputs) & {"mm_token_type_ids", "token_type_ids"}:
        inputs[kind] = torch.nn.functional.pad(inputs[kind], (0, len(sample.ids)))
    with sdpa_attention(model.module):
        found = model.module(input_ids=ids_1_T, use_cache=False, **inputs).logits
    log_probs_T_V = (found[0, -len(sample.ids) - 1 : -1].float() / sample.sampling.temperature).log_softmax(-1)
    return log_probs_T_V.gather(-1, torch.tensor(sample.ids)[:, None])[:, 0]
