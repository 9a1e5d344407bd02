"""The model that KL terms and other comparisons refer to: the start model, or one that follows the trained weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.language_model import LanguageModel
from rethink.settings import Training

FILE = "reference.safetensors"
"""In a checkpoint: the weights of a reference model that has moved, in float32."""


class MovingReference:
    """A whole model on this rank that moves to the trained weights after every `reference_every` updates: reference =
    mixup * trained + (1 - mixup) * reference, where `mixup` is `reference_mixup`. With LoRA, the trained weights are the
    base with the adapter merged in.

    Until its first move it is the start model, and `weights` says None. `load` returns the start model, which is copied."""

    def __init__(self, load: Callable[[], LanguageModel], dtype: torch.dtype, settings: Training) -> None:
        self._load = load
        self._dtype = dtype
        self._every = settings.reference_every
        self._mixup = settings.reference_mixup
        self._model: LanguageModel | None = None
        self.weights: Weights | None = None

    def is_due(self, version: int) -> bool:
        """Return whether the reference moves after this update."""
        return self._every > 0 and version % self._every == 0

    @property
    def model(self) -> LanguageModel:
        """The reference model: the start model until its first move. Its weights are float32 copies, because averages lose
        small moves in bfloat16."""
        if self._model is None:
            start = self._load()
            self._model = replace(start, module=copy.deepcopy(start.module).float().requires_grad_(False))
        return self._model

    @torch.no_grad()
    def move(self, trained: Iterable[tuple[str, Tensor]]) -> None:
        """Move to the trained weights, given by name."""
        parameters = self._parameters()
        for name, weight in trained:
            own = parameters[name]
            own.lerp_(weight.to(own), self._mixup)
        self._renew()

    def write(self, folder: Path) -> None:
        """Write the weights into a checkpoint, if they have moved. All ranks have the same; one of them writes."""
        if self.weights is not None:
            tensors = {name: p.detach().cpu().contiguous() for name, p in self._parameters().items()}
            save_file(tensors, folder / FILE)

    @torch.no_grad()
    def read(self, folder: Path) -> None:
        """Read the weights from a checkpoint, if they had moved."""
        if self._every and (folder / FILE).is_file():
            found = load_file(folder / FILE)
            for name, own in self._parameters().items():
                own.copy_(found[name])
            self._renew()

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.model.module.named_parameters())

    def _renew(self) -> None:
        self.weights = None  # never two at a time
        self.weights = self.model.weights(self._dtype)
