"""The model that KL terms and other comparisons refer to: the start model, or one that follows the trained weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.forward.embedding import tower_parameters
from rethink.models.language_model import LanguageModel
from rethink.models.sharded_weights import is_sharded, load_shards
from rethink.settings import Training

FILE, FOLDER = "reference.safetensors", "reference"
"""In a checkpoint: the weights of a reference model that has moved, in float32, from one process or from several."""


class FrozenModel(Protocol):
    """A model that no optimizer trains. Several ranks hold shards of it: all of them call every method, with the same
    arguments, and run equally many forward passes with its weights."""

    def weights(self) -> Weights:
        """Return the current weights. They are valid until these change."""
        ...

    def mix(self, other: Iterable[tuple[str, Tensor]], share: float) -> None:
        """Move by this share of the way to other weights, which are whole and given by name."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every whole weight by its Hugging Face name; tied ones once."""
        ...

    def write(self, checkpoint: Path) -> None:
        """Write the weights into a checkpoint."""
        ...

    def read(self, checkpoint: Path) -> None:
        """Read weights from a checkpoint, which any number of ranks may have written."""
        ...


class WholeModel:
    """A frozen model in this process; see `FrozenModel`."""

    def __init__(self, model: LanguageModel, dtype: torch.dtype) -> None:
        self.model = model
        self._dtype = dtype
        self._parameters: dict[str, Tensor] = dict(model.module.named_parameters())

    def weights(self) -> Weights:
        return self.model.weights(self._dtype)

    @torch.no_grad()
    def mix(self, other: Iterable[tuple[str, Tensor]], share: float) -> None:
        for name, weight in other:
            own = self._parameters[name]
            if own is not weight:  # the tower may be that of the model in training
                own.lerp_(weight.to(own), share)
        self._forget_images()

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._parameters.items()

    def write(self, checkpoint: Path) -> None:
        tensors = {name: p.detach().cpu().contiguous() for name, p in self._parameters.items()}
        save_file(tensors, checkpoint / FILE)

    @torch.no_grad()
    def read(self, checkpoint: Path) -> None:
        if is_sharded(checkpoint / FOLDER):
            load_shards({"model": self._parameters}, checkpoint / FOLDER, single_process=True)
            return
        found = load_file(checkpoint / FILE)
        for name, own in self._parameters.items():
            own.copy_(found[name])
        self._forget_images()

    def _forget_images(self) -> None:
        vectors = self.model.image_vectors
        if vectors is not None and vectors.module is self.model.module:  # its tower moves, too: see `whole_copy`
            vectors.forget()


def whole_copy(start: LanguageModel, dtype: torch.dtype, *, moves_tower: bool = False) -> WholeModel:
    """Return a copy of the model in float32, because averages lose small moves in bfloat16; its products are in `dtype`.

    Unless its tower moves, too, that and the vectors of images stay those of the start model."""
    kept = [] if moves_tower else tower_parameters(start.module)
    memo = dict(zip(map(id, kept), kept, strict=True))  # `deepcopy` takes these in place of copies
    module = copy.deepcopy(start.module, memo)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and not any(tensor is p for p in kept):
            tensor.data = tensor.data.float()
    module.requires_grad_(False)
    vectors = start.image_vectors
    if moves_tower and vectors is not None:
        vectors = vectors.over(module)
    return WholeModel(replace(start, module=module, image_vectors=vectors), dtype)


class MovingReference:
    """A frozen model that moves to the trained weights after every `reference_every` updates: reference = mixup * trained +
    (1 - mixup) * reference, where `mixup` is `reference_mixup`. With LoRA, the trained weights are the base with the
    adapter merged in.

    Until its first move it is the start model, and `weights` says None. `open_copy` returns a float32 copy of the start
    model, on several ranks a sharded one. `load` returns the start model itself, whole."""

    def __init__(
        self,
        open_copy: Callable[[], FrozenModel],
        load: Callable[[], LanguageModel],
        dtype: torch.dtype,
        settings: Training,
    ) -> None:
        self._open_copy = open_copy
        self._load = load
        self._dtype = dtype
        self._every = settings.reference_every
        self._mixup = settings.reference_mixup
        self._frozen: FrozenModel | None = None
        self._whole: WholeModel | None = None
        self.weights: Weights | None = None

    def is_due(self, version: int) -> bool:
        """Return whether the reference moves after this update."""
        return self._every > 0 and version % self._every == 0

    @property
    def model(self) -> LanguageModel:
        """The whole reference model, for a method that samples from it or scores with it: from then on, each of several
        ranks keeps a whole copy, too. All ranks must ask."""
        frozen = self.opened()
        if self._whole is None:
            self._whole = frozen if isinstance(frozen, WholeModel) else whole_copy(self._load(), self._dtype)
            self._follow()
        return self._whole.model

    def move(self, trained: Iterable[tuple[str, Tensor]]) -> None:
        """Move to the trained weights, given by name."""
        self.opened().mix(trained, self._mixup)
        self._renew()

    def write(self, checkpoint: Path) -> None:
        """Write the weights into a checkpoint, if they have moved. All ranks must call this."""
        if self.weights is not None:
            self.opened().write(checkpoint)

    def read(self, checkpoint: Path) -> None:
        """Read the weights from a checkpoint, if they had moved."""
        if self._every and ((checkpoint / FILE).is_file() or is_sharded(checkpoint / FOLDER)):
            self.opened().read(checkpoint)
            self._renew()

    def opened(self) -> FrozenModel:
        """Return the model that moves, opened on first use."""
        if self._frozen is None:
            self._frozen = self._open_copy()
        return self._frozen

    def _renew(self) -> None:
        self.weights = None  # never two at a time
        self.weights = self.opened().weights()
        self._follow()

    def _follow(self) -> None:
        """Bring the whole copy to the weights of a sharded reference."""
        if self._whole is not None and self._whole is not self._frozen:
            self._whole.mix(self.opened().named_weights(), 1.0)
