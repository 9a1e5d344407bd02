"""What is kept of images that a model has met: a bounded amount."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.models.model_info import read_model_info
from rethink.models.vision import ImageText, image_text
from rethink.settings import ModelSource
from support.images import image
from support.vision_models import save_vision_model


def test_texts_of_images_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a server that grows with each image, and against a wrong count where images share a text. Those that
    are dropped are read again, and have the same text."""
    info = read_model_info(ModelSource(str(save_vision_model(tmp_path, "Qwen2.5-VL"))))
    assert info is not None
    assert info.chat.image_text is not None
    found = info.chat.image_text
    sizes = [(40, 40), (40, 40), (80, 40), (80, 80), (120, 80), (40, 40)]
    colors = ("red", "blue", "teal", "navy", "gold", "pink")
    images = list(map(image, colors, sizes))
    texts = [found.text_of(one) for one in images]
    grids = [found.grid_of(one) for one in images]
    assert texts[0] is texts[1]
    assert len(set(texts)) == 4
    monkeypatch.setattr(image_text, "TEXT_BYTES", 2 * image_text.ENTRY_BYTES + len(texts[3]) + len(texts[4]))
    found = ImageText(found.processor, found.token_id)
    for n in (0, 3, 1, 4, 2, 5, 0, 1):
        assert (found.text_of(images[n]), found.grid_of(images[n])) == (texts[n], grids[n])
        kept = list(found._texts.values())
        assert found._n_bytes == image_text.ENTRY_BYTES * len(kept) + sum(map(len, set(kept)))
        assert {text: n for text, (_, n) in found._same.items()} == {text: kept.count(text) for text in kept}
        assert found._grids.keys() <= found._texts.keys()
        assert found._n_bytes <= image_text.TEXT_BYTES
        assert next(reversed(found._texts)) == images[n].digest
    assert len(found._texts) < len(images)
