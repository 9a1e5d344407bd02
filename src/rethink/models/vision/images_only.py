"""The image side of a processor whose video side needs a package (torchvision) that is not installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer

from rethink.models import hub

FILES = "*processor_config.json", "chat_template*"


class ImagesOnly:
    """Does for images what the processors of the Qwen-VL family do: one image token for each square of merged patches."""

    def __init__(self, folder: str, image_token: str) -> None:
        self.folder = Path(folder if Path(folder).is_dir() else hub.cached_folder(folder) or folder)
        self.image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.image_token = image_token
        self.chat_template = self.tokenizer.chat_template

    def __call__(self, images: list[Any] | None, text: list[str], **how: Any) -> dict[str, Any]:
        """Return the pixels of the images, and the ids of a text with an image token for each vector."""
        found: dict[str, Any] = dict(self.image_processor(images=images, return_tensors="pt")) if images else {}
        first, *rest = text[0].split(self.image_token)
        expanded = first
        for grid_3, piece in zip(found.get("image_grid_thw", ()), rest, strict=True):
            n_vectors = int(grid_3.prod()) // self.image_processor.merge_size**2
            expanded += self.image_token * n_vectors + piece
        found |= dict(self.tokenizer([expanded], return_tensors="pt", add_special_tokens=False))
        image_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        return found | {"mm_token_type_ids": (found["input_ids"] == image_id).int()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the files of the whole processor where they are at hand, and write the image processor, whose bounds may be
        others, into them."""
        for pattern in FILES:
            for file in self.folder.glob(pattern):
                shutil.copy(file, folder)
        self.image_processor.save_pretrained(folder)
        whole = Path(folder) / "processor_config.json"
        settings = json.loads(whole.read_text(encoding="utf-8")) if whole.is_file() else {}
        if "image_processor" in settings:
            settings["image_processor"] = json.loads(self.image_processor.to_json_string())
            whole.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def images_only(folder: str, config: Any) -> ImagesOnly | None:
    """Return the image side of the processor of a model whose images have grids; None for others."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    found = ImagesOnly(folder, token)
    return found if hasattr(found.image_processor, "merge_size") else None
