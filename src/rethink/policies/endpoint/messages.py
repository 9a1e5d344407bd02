"""Messages in the form of the chat API."""

from __future__ import annotations

from typing import Any

from rethink.images import Image
from rethink.policies.endpoint.replies import replace_surrogates
from rethink.types import Message


def wire_message(message: Message) -> dict[str, Any]:
    """Return a message as chat servers take it; its images become parts with data URLs."""
    if not message.images:
        return {"role": message.role, "content": replace_surrogates(message.content)}
    parts: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, Image):
            parts.append({"type": "image_url", "image_url": {"url": part.data_url()}})
        else:
            parts.append({"type": "text", "text": replace_surrogates(part)})
    return {"role": message.role, "content": parts}
