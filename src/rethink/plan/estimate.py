"""The memory that one problem batch of a recipe needs with given settings and GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rethink.objectives import Update
from rethink.plan.heaviest_update import heaviest_update
from rethink.plan.memory import (
    GIB,
    FrozenModels,
    FullModel,
    MemorySettings,
    Peak,
    sampling_window,
    training_window,
)
from rethink.plan.memory_tracker import Window
from rethink.plan.token_counts import BatchCounts, SampleRequest
from rethink.recipe import Recipe
from rethink.training.trainer import GPU_TOKENS

CONTEXT = GIB
"""Bytes for CUDA and its libraries: an assumption."""

FRAGMENTS = 0.05
"""The share of the peak that fragmentation wastes: an assumption."""

VLLM = "vLLM (sampler.gpu_memory)"


@dataclass(frozen=True)
class MemoryEstimate:
    """The peak of each stage; None if the batch does not have the stage."""

    settings: MemorySettings
    sampling: Peak | None
    training: Peak | None

    @property
    def peak(self) -> float:
        """Bytes per GPU."""
        return max((m.n_bytes for m in (self.sampling, self.training) if m is not None), default=0.0)

    @property
    def needed(self) -> float:
        """Bytes per GPU with what is assumed for CUDA and fragmentation."""
        return self.peak * (1 + FRAGMENTS) + CONTEXT


class Estimates:
    """Estimates for one problem batch with different settings. Results are cached."""

    def __init__(self, config: Any, counted: BatchCounts) -> None:
        self.config = config
        self.counted = counted
        self.longest_row = max((len(s.prompt_ids) + len(s.ids) for s in counted.samples), default=0)
        self._models: dict[tuple[int, str], FullModel] = {}
        self._sampling: dict[tuple[MemorySettings, SampleRequest], Window] = {}
        self._training: dict[tuple[MemorySettings, int], Window] = {}

    def estimate(self, settings: MemorySettings) -> MemoryEstimate:
        """Return the estimate. Raise UserError if these settings need a package that is not installed."""
        kind = settings.rank, settings.vision
        if kind not in self._models:
            self._models[kind] = FullModel(self.config, settings)
        full = self._models[kind]
        requests = [request for request in self.counted.requests if request.role == "policy"]
        update = heaviest_update(self.counted.updates, settings)
        training = [] if update is None else [self._train(settings, update)]
        sampling = _vllm_peak(full, settings)
        if settings.vllm_bytes is None:
            sampling = _peak("sampling", [self._sample(settings, request) for request in requests], full, settings)
        return MemoryEstimate(settings, sampling, _peak("training", training, full, settings))

    def _sample(self, settings: MemorySettings, request: SampleRequest) -> Window:
        key = replace(settings, micro_batch_tokens=0, chunk_tokens=0, checkpointing=False, optimizer=""), request
        if key not in self._sampling:
            self._sampling[key] = sampling_window(self.config, settings, request)
        return self._sampling[key]

    def _train(self, settings: MemorySettings, update: Update) -> Window:
        n_samples = sum(len(part.samples) for part in update.parts)
        key = replace(settings, n_gpus=min(settings.n_gpus, 2), cache_bytes=0, optimizer=""), n_samples
        if key not in self._training:
            self._training[key] = training_window(self.config, settings, update)
        return self._training[key]


def _peak(stage: str, windows: list[Window], full: FullModel, settings: MemorySettings) -> Peak | None:
    """Return the largest window together with the items that are always there."""
    if not windows:
        return None
    largest = max(windows, key=lambda window: window.total)
    return Peak(largest.label, {**full.items(settings, stage), **largest.items})


def _vllm_peak(full: FullModel, settings: MemorySettings) -> Peak | None:
    """Return what a GPU holds while vLLM samples on it; None if it does not."""
    if not settings.vllm_bytes:
        return None
    return Peak("vLLM", {**full.items(settings, "sampling"), VLLM: settings.vllm_bytes})


def memory_settings(recipe: Recipe, n_gpus: int, counted: BatchCounts, gib: float = 80.0) -> MemorySettings:
    """Return the recipe's settings on GPUs with bfloat16 and this much memory."""
    training, sampler = recipe.training, recipe.sampler
    vllm_bytes = 0.0 if sampler.urls else sampler.gpu_memory * gib * GIB
    return MemorySettings(
        n_gpus=n_gpus,
        micro_batch_tokens=training.micro_batch_tokens or GPU_TOKENS,
        chunk_tokens=training.chunk_tokens,
        checkpointing=training.gradient_checkpointing,
        optimizer=training.optimizer,
        rank=recipe.lora.rank,
        vision=recipe.training.vision,
        cache_bytes=int(sampler.cache_gib * GIB),
        base=recipe.model.dtype,
        trainer=recipe.model.dtype if training.autocast == "none" else "bfloat16",
        sampler="float32" if sampler.dtype == "float32" else "bfloat16",
        head=recipe.model.head_dtype,
        vllm_bytes=vllm_bytes if sampler.engine == "vllm" else None,
        frozen=_frozen(recipe, counted),
    )


def _frozen(recipe: Recipe, counted: BatchCounts) -> FrozenModels:
    asked = {request.role for request in counted.requests}
    compared = False
    for update in counted.updates:
        for part in update.parts:
            compared |= part.needs_reference
    teacher = recipe.teacher
    is_start = not (teacher.path or teacher.endpoint.url)
    start_samples = bool({"initial", "reference"} & asked) or ("teacher" in asked and is_start)
    teacher_samples = "teacher" in asked and bool(teacher.path) and not teacher.endpoint.url
    moves = (compared or "reference" in asked) and recipe.training.reference_every > 0
    return FrozenModels(compared, start_samples, teacher_samples, moves)
