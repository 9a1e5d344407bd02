"""Messages in the form of the chat API."""

from __future__ import annotations

import base64

from rethink.policies.endpoint.messages import wire_message
from rethink.types import Message
from support.images import image, png


def test_images_are_parts_with_data_urls() -> None:
    """Guards against images that are left out, or in another place than in a local model's prompt."""
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    assert wire_message(Message("user", "Red?", (image(),))) == {
        "role": "user",
        "content": [part, {"type": "text", "text": "Red?"}],
    }
    shown = wire_message(Message("user", "Is <image> red?", (image(),)))
    assert shown["content"] == [{"type": "text", "text": "Is "}, part, {"type": "text", "text": " red?"}]
    assert wire_message(Message("user", "a\ud800")) == {"role": "user", "content": "a\ufffd"}
