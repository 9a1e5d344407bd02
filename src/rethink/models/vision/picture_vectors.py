"""The vectors of pictures, from a frozen vision tower: constants, computed once per picture and kept by its content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from rethink import threads
from rethink.errors import UserError
from rethink.models.vision.picture_text import PictureText
from rethink.pictures import FIRST_ID, KEY_BITS, MAX_VECTORS, PLACE_BITS, Picture, find

CACHE_BYTES = 4 * 2**30
"""Vectors of pictures that are kept in the CPU's memory: 1 MiB holds 128 of 2,048 numbers. The least recently used are
dropped first, and computed again when they are needed."""


class PictureVectors:
    """The vectors of `module`'s tower, by the ids that stand for them in a prompt (`pictures.ids_of`).

    A picture is computed alone and, on a CPU, by one core: its vectors do not depend on when and with what it is asked."""

    def __init__(self, module: Any, text: PictureText, limit_bytes: int = CACHE_BYTES) -> None:
        self.module, self.text, self.limit_bytes = module, text, limit_bytes
        self.n_computed = self.n_bytes = 0
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = RLock()

    def put(self, x_T_H: Tensor, ids_T: Tensor, mask_T: Tensor) -> Tensor:
        """Return embeddings [T, H] with the pictures' vectors at the places of the mask."""
        ids = ids_T[mask_T].tolist()
        vectors = self.rows(ids).to(device=x_T_H.device, dtype=x_T_H.dtype)
        return x_T_H.index_put((mask_T.nonzero()[:, 0],), vectors)

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Return the vectors [N, H] with these ids."""
        found: list[Tensor] = []
        start = 0
        while start < len(ids):
            key, first = _split(ids[start])
            end = start + 1
            while end < len(ids) and ids[end] == ids[end - 1] + 1 and _split(ids[end])[0] == key:
                end += 1
            whole = self._of(key)
            if first + end - start > len(whole):
                raise UserError("the prompt was made for a model that reads images into more vectors than this one")
            found.append(whole[first : first + end - start])
            start = end
        return torch.cat(found)

    def vectors(self, picture: Picture) -> Tensor:
        """Return the vectors [N, H] of a picture."""
        return self._of(picture.key)

    def _of(self, key: int) -> Tensor:
        with self._lock:
            if key not in self._kept:
                picture = find(f"{key:0{KEY_BITS // 4}x}")
                vectors = self._compute(picture)
                self.n_bytes += vectors.nbytes
                self._kept[key] = vectors
                while self.n_bytes > self.limit_bytes and len(self._kept) > 1:
                    self.n_bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(key)
            return self._kept[key]

    def _compute(self, picture: Picture) -> Tensor:
        self.n_computed += 1
        vectors = threads.alone(partial(self._run_tower, self.text.inputs(picture)))
        n = self.text.n_vectors(picture)
        if len(vectors) != n:
            raise UserError(
                f"the model's tower makes {len(vectors)} vectors of {picture.name}, its processor asks for {n}"
            )
        return vectors

    @torch.no_grad()
    def _run_tower(self, inputs: dict[str, Any]) -> Tensor:
        device, dtype = self.module.device, self.module.dtype
        moved: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                value = value.to(device, dtype) if value.is_floating_point() else value.to(device)
            moved[name] = value
        out = self.module.get_image_features(**moved)
        found = getattr(out, "pooler_output", out)
        rows = list(found) if isinstance(found, list | tuple) else [found]
        return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).cpu().clone()


def has_pictures(ids_T: Tensor) -> Tensor:
    """Return which ids stand for vectors of pictures."""
    return ids_T >= FIRST_ID


def _split(i: int) -> tuple[int, int]:
    """Return a picture's key, and the place in its run, from an id."""
    return (i - FIRST_ID) >> PLACE_BITS, (i - FIRST_ID) % MAX_VECTORS
