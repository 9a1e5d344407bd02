"""What stands for an image in a prompt: the text that the model's processor writes, and the ids of its vectors."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from transformers import AutoProcessor

from rethink.errors import UserError
from rethink.images import FIRST_ID, MAX_VECTORS, Image, find_by_key, ids_of, split_id
from rethink.models.forward.embedding import has_grids, has_vision_tower
from rethink.models.model_folder import reason
from rethink.models.special_text import OPEN
from rethink.models.vision.images_only import images_only

FILES = ("processor_config.json", "preprocessor_config.json")
"""The files of a processor, of which a vision-language model has one."""

OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
NO_IMAGES = "it has no vision tower, is opened without it, or its folder has no image processor"
"""Why most models take no images."""

TEXT_BYTES, ENTRY_BYTES = 2**28, 256
"""What the texts of images may take, and about what each image takes besides its text, which others may share. The least
recently used are dropped first: a server meets new images as long as it runs."""

KEPT = 4
"""Images whose pixels are kept, because prompt and vectors are usually wanted one soon after the other."""


class ImageText:
    """The image side of a chat: `processor` is the model's. One image is processed at a time, so that its pixels and
    vectors do not depend on others.

    A template writes the token `place` for an image, and the processor the token `token` for each of its vectors; for most
    models they are the same."""

    def __init__(self, processor: Any, token_id: int | None = None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.place: str = processor.image_token
        self.token_id = self.tokenizer.convert_tokens_to_ids(self.place) if token_id is None else token_id
        self.token: str = self.tokenizer.convert_ids_to_tokens(self.token_id)
        self._place = re.compile(f"(?<!{OPEN}){re.escape(self.place)}")
        self._texts: OrderedDict[str, str] = OrderedDict()  # by digest
        self._same: dict[str, tuple[str, int]] = {}  # equal texts, once, and by how many images
        self._n_bytes = 0
        self._grids: dict[str, tuple[int, int, int]] = {}  # of the same images, as far as they have some
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without what was computed of images."""
        return ImageText, (self.processor, self.token_id)

    def n_places(self, text: str) -> int:
        """Return the number of places for images in a rendered prompt."""
        return len(self._place.findall(text))

    def expand(self, text: str, images: Sequence[Image]) -> str:
        """Return a rendered prompt with the whole text of each image at its place."""
        if self.n_places(text) != len(images):
            raise UserError(
                f"the chat template leaves {self.n_places(text)} places {self.place} for {len(images)} images; choose "
                "another template with model.template"
            )
        texts = iter(map(self.text_of, images))
        return self._place.sub(lambda _: next(texts), text)

    def with_ids(self, ids: Sequence[int], images: Sequence[Image]) -> list[int]:
        """Return the ids of an expanded prompt with the ids of the images' vectors in place of the image token."""
        own = [i for image in images for i in ids_of(image, self.n_vectors(image))]
        if list(ids).count(self.token_id) != len(own):
            raise UserError(f"the tokenizer changes the {self.token} tokens of an image; use the model's own tokenizer")
        rest = iter(own)
        return [next(rest) if i == self.token_id else i for i in ids]

    def without_expansion(self, ids: Sequence[int]) -> tuple[list[int], list[Image]]:
        """Return the ids of a prompt, or of one with a reply, with the token `place` for each image, as a processor takes
        them, and the images in order.

        Raise UserError if the tokenizer joins an image's text with words beside it, or if the model has sampled an image
        token, which a processor would take for one more image."""
        place_id = self.tokenizer.convert_tokens_to_ids(self.place)
        found: list[int] = []
        images: list[Image] = []
        at = 0
        while at < len(ids):
            if ids[at] < FIRST_ID:
                found.append(ids[at])
                at += 1
                continue
            image = find_by_key(split_id(ids[at])[0])
            text_ids = self.tokenizer(self.text_of(image), add_special_tokens=False)["input_ids"]
            n_before = text_ids.index(self.token_id)
            whole = self.with_ids(text_ids, [image])
            if list(ids[at - n_before : at - n_before + len(whole)]) != whole:
                raise UserError(
                    f"the tokenizer joins the text of the image {image.name} with words beside it, so vLLM cannot read the "
                    "prompt; use the model's own tokenizer and template (model.template), or sampler.engine=local"
                )
            found[len(found) - n_before :] = [place_id]
            images.append(image)
            at += len(whole) - n_before
        if found.count(place_id) > len(images) or (self.token_id != place_id and self.token_id in found):
            raise UserError(
                f"the reply contains the model's image token ({self.place}), which the model has sampled; vLLM would take "
                "it for one more image, so the reply cannot be sent to it: set sampler.engine=local"
            )
        return found, images

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The fewest and the most pixels of an image; None for a processor without such bounds."""
        images = self.processor.image_processor
        if not hasattr(images, "merge_size"):
            return None
        return int(images.size["shortest_edge"]), int(images.size["longest_edge"])

    def n_vectors(self, image: Image) -> int:
        """Return the number of vectors of an image."""
        return self.text_of(image).count(self.token)

    def grid_of(self, image: Image) -> tuple[int, int, int]:
        """Return the times, rows and columns of an image's vectors."""
        with self._lock:
            self.text_of(image)
            if image.digest not in self._grids:
                merged = int(self.processor.image_processor.merge_size)
                t, h, w = self._process(image)["image_grid_thw"][0].tolist()
                self._grids[image.digest] = t, h // merged, w // merged
            return self._grids[image.digest]

    def text_of(self, image: Image) -> str:
        """Return the text of an image: the image token once per vector, and what the processor puts around them."""
        with self._lock:
            if image.digest not in self._texts:
                ids = self._process(image)["input_ids"][0]
                text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                if not 0 < text.count(self.token) <= MAX_VECTORS:
                    n = text.count(self.token)
                    raise UserError(f"the image {image.name} has {n} vectors, not 1 to {MAX_VECTORS}; make it smaller")
                self._keep(image.digest, text)
            self._texts.move_to_end(image.digest)
            return self._texts[image.digest]

    def _keep(self, digest: str, text: str) -> None:
        """Keep the text of an image, and drop the oldest ones beyond the limit."""
        shared, n_images = self._same.get(text, (text, 0))
        self._same[text] = shared, n_images + 1
        self._texts[digest] = shared
        self._n_bytes += ENTRY_BYTES + (0 if n_images else len(text))
        while self._n_bytes > TEXT_BYTES and len(self._texts) > 1:
            old, text = self._texts.popitem(last=False)
            self._grids.pop(old, None)
            shared, n_images = self._same.pop(text)
            if n_images > 1:
                self._same[shared] = shared, n_images - 1
            self._n_bytes -= ENTRY_BYTES + (len(text) if n_images == 1 else 0)

    def inputs(self, image: Image) -> dict[str, Any]:
        """Return what the tower reads: the pixels, and what belongs to them."""
        with self._lock:
            return {name: value for name, value in self._process(image).items() if name not in OF_TEXT}

    def _process(self, image: Image) -> dict[str, Any]:
        if image.digest not in self._recent:
            with image.open() as pil_image:
                try:
                    found = self.processor(
                        images=[pil_image], text=[self.place], add_special_tokens=False, return_tensors="pt"
                    )
                except Exception as err:  # processors raise many types, for images that are too long or too flat
                    raise UserError(f"the model's processor cannot read the image {image.name}: {err}") from err
            self._recent[image.digest] = dict(found)
            while len(self._recent) > KEPT:
                self._recent.popitem(last=False)
        return self._recent[image.digest]


def has_processor(folder: str) -> bool:
    """Return whether a model's folder has the files of an image processor."""
    return any((Path(folder) / name).is_file() for name in FILES)


def open_image_text(folder: str, config: Any, image_pixels: tuple[int, ...] = ()) -> tuple[ImageText | None, str]:
    """Return the image side of a model's chat; or None and why the model takes no images.

    A processor that cannot be opened is no error, since texts need none. `image_pixels` replaces its bounds on the size of
    images; raise UserError if there are none to replace."""
    is_here = Path(folder).is_dir()
    if not has_vision_tower(config) or (is_here and not has_processor(folder)):
        if image_pixels:
            raise UserError(f"model.image_pixels is for models that take images, and {folder} takes none; leave it out")
        return None, NO_IMAGES
    try:
        found = ImageText(_open_processor(folder, config), getattr(config, "image_token_id", None))
    except OSError as err:  # a model on the hub may have no processor
        return None, f"cannot open its image processor: {reason(err)}" if is_here else NO_IMAGES
    except ImportError as err:
        return None, f"its image processor needs a package: {reason(err)}"
    except Exception as err:  # the library raises errors of all kinds for files that it cannot read
        return None, f"cannot open its image processor: {reason(err)}"
    if image_pixels:
        _bound_pixels(found.processor.image_processor, image_pixels)
    return found, ""


def _bound_pixels(images: Any, bounds: tuple[int, ...]) -> None:
    """Set the fewest and the most pixels of an image, which the Qwen-VL family calls edges."""
    size = getattr(images, "size", None)
    if not hasattr(images, "merge_size") or size is None:
        raise UserError(
            f"model.image_pixels is for models that take images of any size, such as Qwen2.5-VL; {type(images).__name__} "
            "has no such bounds"
        )
    images.size = type(size)(shortest_edge=bounds[0], longest_edge=bounds[1])


def _open_processor(folder: str, config: Any) -> Any:
    """Return the processor, or the image side of one whose video side needs a package that is missing."""
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError:
        processor = images_only(folder, config) if has_grids(config) else None
        if processor is None:
            raise
    for part in ("image_token", "image_processor"):
        if getattr(processor, part, None) is None:
            raise UserError(f"{type(processor).__name__} has no {part}")
    return processor
