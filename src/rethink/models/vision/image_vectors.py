"""The vectors of images, from a vision tower: computed once per image, and kept by its content until the tower changes.

Of a frozen tower they are constants. Those of a trained tower are computed in each micro-batch, with gradients.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache, partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from rethink import threads
from rethink.errors import UserError
from rethink.images import FIRST_ID, Image, find_by_key, split_id
from rethink.models.forward.embedding import Embedded, has_grids, trained_tower
from rethink.models.vision.image_text import ImageText

CACHE_BYTES = 4 * 2**30
"""Vectors of images that are kept in the CPU's memory: 1 MiB holds 128 of 2,048 numbers. The least recently used are
dropped first, and computed again when they are needed."""

MOST_GRIDS = 100_000


class ImageVectors:
    """The vectors of `module`'s tower, by the ids that stand for them in a prompt (`images.ids_of`).

    An image is computed alone and, if its vectors are kept, by one core of a CPU: so they do not depend on when and with
    what it is asked. With `both_ways`, the vectors of an image attend to each other in both directions."""

    def __init__(
        self, module: Any, text: ImageText, limit_bytes: int = CACHE_BYTES, *, both_ways: bool = False
    ) -> None:
        self.module, self.text, self.limit_bytes, self.both_ways = module, text, limit_bytes, both_ways
        self.has_grids = has_grids(module.config)
        self.n_computed = self.n_bytes = 0
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._grids: dict[int, tuple[int, int, int]] = {}
        self._lock = RLock()

    def over(self, module: Any) -> ImageVectors:
        """Return the vectors of another module's tower, computed from nothing."""
        return ImageVectors(module, self.text, self.limit_bytes, both_ways=self.both_ways)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without vectors: another process computes those that it needs."""
        return partial(ImageVectors, both_ways=self.both_ways), (self.module, self.text, self.limit_bytes)

    def insert(self, x_T_H: Tensor, ids_T: Tensor, mask_T: Tensor) -> Embedded:
        """Return a flat sequence with the images' vectors at the places of the mask."""
        ids = ids_T[mask_T].tolist()
        vectors = self.rows(ids).to(device=x_T_H.device, dtype=x_T_H.dtype)
        first, *deep = vectors.split(x_T_H.shape[1], 1)
        places = mask_T.nonzero()[:, 0]
        offsets_3_T = None
        if self.has_grids:
            offsets_3_T = torch.zeros((3, len(ids_T)), dtype=torch.long, device=x_T_H.device)
            offsets_3_T[:, places] = torch.tensor(list(map(self._offsets, ids)), device=x_T_H.device).T
        image_T = _number_images(mask_T) if self.both_ways else None
        return Embedded(x_T_H.index_put((places,), first), mask_T, deep, offsets_3_T, image_T)

    def positions(self, ids: Sequence[int]) -> tuple[Sequence[int], int]:
        """Return the position of each id of a prompt (for a vector, that of its image), and that of what comes next.

        An image takes as many positions as the longest side of its grid."""
        found: list[int] = []
        after = start = 0
        for i in ids:
            if i < FIRST_ID:
                start, after = after, after + 1
            elif split_id(i)[1] == 0:
                start, after = after, after + max(self._grid_of(i))
            found.append(start)
        return found, after

    def _offsets(self, i: int) -> tuple[int, int, int]:
        """Return how far the time, row and column of a vector are from the position of its image."""
        _, h, w = self._grid_of(i)
        place = split_id(i)[1]
        return place // (h * w), place // w % h, place % w

    def _grid_of(self, i: int) -> tuple[int, int, int]:
        """Return the times, rows and columns of the image that an id is of."""
        key = split_id(i)[0]
        found = self._grids.get(key)
        if found is None:
            if len(self._grids) >= MOST_GRIDS:
                self._grids = {}
            self._grids[key] = found = self.text.grid_of(find_by_key(key))
        return found

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Return the vectors [N, H] with these ids; of a trained tower with gradients, where these are enabled."""
        is_trained = torch.is_grad_enabled() and trained_tower(self.module)
        vectors_of = cache(self._of_trained) if is_trained else self._of
        found: list[Tensor] = []
        start = 0
        while start < len(ids):
            key, first = split_id(ids[start])
            end = start + 1
            while end < len(ids) and ids[end] == ids[end - 1] + 1 and split_id(ids[end])[0] == key:
                end += 1
            whole = vectors_of(key)
            if first + end - start > len(whole):
                raise UserError("the prompt was made for a model that reads images into more vectors than this one")
            found.append(whole[first : first + end - start])
            start = end
        return torch.cat(found)

    def vectors(self, image: Image) -> Tensor:
        """Return the vectors [N, H] of an image."""
        return self._of(image.key)

    def forget(self) -> None:
        """Drop all vectors, because the tower has changed."""
        with self._lock:
            self._kept.clear()
            self.n_bytes = 0

    def _of_trained(self, key: int) -> Tensor:
        image = find_by_key(key)
        return self._checked(self._run_tower(self.text.inputs(image)), image)

    def _of(self, key: int) -> Tensor:
        with self._lock:
            if key not in self._kept:
                image = find_by_key(key)
                self.n_computed += 1
                vectors = self._checked(threads.alone(partial(self._run_frozen, self.text.inputs(image))), image)
                self.n_bytes += vectors.nbytes
                self._kept[key] = vectors
                while self.n_bytes > self.limit_bytes and len(self._kept) > 1:
                    self.n_bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(key)
            return self._kept[key]

    def _checked(self, vectors: Tensor, image: Image) -> Tensor:
        n = self.text.n_vectors(image)
        if len(vectors) != n:
            raise UserError(
                f"the model's tower makes {len(vectors)} vectors of {image.name}, its processor asks for {n}"
            )
        return vectors

    @torch.no_grad()
    def _run_frozen(self, inputs: dict[str, Any]) -> Tensor:
        return self._run_tower(inputs).cpu().clone()

    def _run_tower(self, inputs: dict[str, Any]) -> Tensor:
        device, dtype = self.module.device, self.module.dtype
        moved: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                value = value.to(device, dtype) if value.is_floating_point() else value.to(device)
            moved[name] = value
        out = self.module.get_image_features(**moved)
        found = getattr(out, "pooler_output", out)
        deep = getattr(out, "deepstack_features", None) or ()
        return torch.cat([_flat(part) for part in (found, *deep)], 1)


def _number_images(mask_T: Tensor) -> Tensor:
    """Return the number of the run of places that each is in, -1 elsewhere."""
    starts_T = mask_T.clone()
    starts_T[1:] &= ~mask_T[:-1]
    return (starts_T.cumsum(0) - 1).masked_fill(~mask_T, -1)


def _flat(part: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the vectors [N, H] in what a tower returns for one image: a tensor, or several."""
    rows = [part] if isinstance(part, Tensor) else list(part)
    return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows])
