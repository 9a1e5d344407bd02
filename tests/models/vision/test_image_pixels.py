"""Bounds on the size of images, where a model takes images of any size."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.images import FIRST_ID
from rethink.models.load import load_model
from rethink.models.model_info import read_model_info
from rethink.settings import ModelSource
from rethink.types import Message
from support.images import image
from support.vision_models import save_vision_model


def test_bounds_of_image_sizes(tmp_path: Path) -> None:
    """Guards against images that are larger than asked for, and a check before the run that counts other tokens."""
    folder = str(save_vision_model(tmp_path, "Qwen2.5-VL"))
    shown = (Message("user", "?", (image("red", (200, 160)),)),)
    plain, bounded = load_model(folder).chat, load_model(folder, image_pixels=(256, 1024)).chat
    info = read_model_info(ModelSource(folder, image_pixels=(256, 1024)))
    assert info is not None
    counts = [sum(i >= FIRST_ID for i in chat.encode(shown)) for chat in (plain, bounded, info.chat)]
    assert counts[0] > counts[1] == counts[2] >= 1
    assert counts[1] * 16 * 16 <= 1024


def test_a_saved_model_keeps_the_bounds(tmp_path: Path) -> None:
    """Guards against a checkpoint or an export that scales images in another way than its run did."""
    folder, saved = save_vision_model(tmp_path / "model", "Qwen2.5-VL"), tmp_path / "saved"
    shown = (Message("user", "?", (image("red", (200, 160)),)),)
    model = load_model(str(folder), image_pixels=(256, 1024))
    model.module.save_pretrained(saved)
    model.chat.save(saved)
    assert load_model(str(saved)).chat.encode(shown) == model.chat.encode(shown)
    assert len(load_model(str(folder)).chat.encode(shown)) > len(model.chat.encode(shown))


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "LLaVA"])
def test_a_bfloat16_output_layer_is_no_fault(name: str, tmp_path: Path) -> None:
    """Guards against a check of the pass over an image that mistakes rounding for a wrong pass."""
    assert load_model(str(save_vision_model(tmp_path, name)), head_dtype="bfloat16").image_vectors is not None


def test_a_text_model_has_no_bounds(model_folders: dict[str, Path]) -> None:
    """Guards against a setting that has no effect."""
    with pytest.raises(UserError, match=r"model\.image_pixels is for models that take images"):
        read_model_info(ModelSource(str(model_folders["qwen3"]), image_pixels=(256, 1024)))


def test_a_processor_without_bounds(tmp_path: Path) -> None:
    """Guards against a setting that has no effect."""
    folder = str(save_vision_model(tmp_path, "LLaVA"))
    with pytest.raises(UserError, match=r"model\.image_pixels is for models that take images of any size"):
        read_model_info(ModelSource(folder, image_pixels=(256, 1024)))
