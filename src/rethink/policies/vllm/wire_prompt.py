"""Prompts as vLLM takes them: with images, ids that have one token at the place of each, and the images beside them.

vLLM's processor expands these tokens. The ids that it returns must be ours: otherwise its log-probs would be those of
another prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rethink.errors import UserError
from rethink.images import FIRST_ID, has_images
from rethink.models.chat import Chat

HOW_TO_READ_IMAGES = (
    "start it with the folder model.path, without --tokens-only, with the same versions of transformers and torchvision, "
    "and with --mm-processor-kwargs if model.image_pixels is set (docs/vllm.md), or sample with sampler.engine=local"
)


@dataclass(frozen=True)
class WirePrompt:
    """A prompt's part of a request's `body`, and the ids that vLLM has `computed` if it has read the images as we do."""

    body: dict[str, Any]
    computed: Sequence[int]

    def require(self, answer: dict[str, Any]) -> None:
        """Raise UserError if an answer is to a prompt of other ids. vLLM returns them for prompts with images."""
        found = answer.get("prompt_token_ids")
        if "content_parts" not in self.body or found == self.computed:
            return
        if not isinstance(found, list):
            raise UserError(
                "the server returns no prompt ids for a prompt with images, so nothing shows that it has read them as the "
                f"trainer does; {HOW_TO_READ_IMAGES}"
            )
        at = next((k for k, (a, b) in enumerate(zip(found, self.computed, strict=False)) if a != b), None)
        gap = "" if at is None else f"; the first other one is {found[at]}, not {self.computed[at]}, at position {at}"
        raise UserError(
            f"vLLM makes {len(found)} ids of a prompt with images, and the trainer {len(self.computed)}{gap}. Its images "
            f"have other sizes or another processor; {HOW_TO_READ_IMAGES}"
        )


def wire_prompt(ids: Sequence[int], chat: Chat) -> WirePrompt:
    """Return a prompt, or a prompt with a reply, by its ids."""
    if not has_images(ids):
        return WirePrompt({"token_ids": list(ids)}, ids)
    assert chat.image_text is not None
    token_id = chat.image_text.token_id
    short, images = chat.image_text.without_expansion(ids)
    parts = [{"type": "image_url", "url": image.rgb_url(), "uuid": image.digest} for image in images]
    body = {"token_ids": short, "content_parts": parts, "return_token_ids": True}
    return WirePrompt(body, [i if i < FIRST_ID else token_id for i in ids])
