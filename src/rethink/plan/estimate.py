"""A recipe on some GPUs: what one problem batch needs under a choice of settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rethink.objectives import Update
from rethink.plan.memory import (
    GIB,
    FrozenModels,
    FullModel,
    MemorySettings,
    Peak,
    heaviest_update,
    sampling_window,
    training_window,
)
from rethink.plan.token_counts import BatchCounts, SampleRequest
from rethink.plan.tracker import Window
from rethink.recipe import Recipe
from rethink.training.trainer import GPU_TOKENS

CONTEXT = GIB
"""What CUDA and its libraries take before anything is allocated: an assumption."""

FRAGMENTS = 0.05
"""What the allocator cannot use, as a share of the peak: an assumption."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The largest moment of each stage; None where the batch has no such stage."""

    choice: MemorySettings
    sampling: Peak | None
    training: Peak | None

    @property
    def peak(self) -> float:
        """Bytes per GPU."""
        return max((m.n_bytes for m in (self.sampling, self.training) if m is not None), default=0.0)

    @property
    def needed(self) -> float:
        """The peak with what is assumed for CUDA and fragments."""
        return self.peak * (1 + FRAGMENTS) + CONTEXT


class Estimates:
    """What the tokens of one problem batch need, choice by choice. Nothing is run twice."""

    def __init__(self, config: Any, counted: BatchCounts) -> None:
        self.config = config
        self.counted = counted
        self.longest_row = max((len(s.prompt_ids) + len(s.ids) for s in counted.samples), default=0)
        self._models: dict[int, FullModel] = {}
        self._sampling: dict[tuple[MemorySettings, SampleRequest], Window] = {}
        self._training: dict[tuple[MemorySettings, int], Window] = {}

    def estimate(self, choice: MemorySettings) -> MemoryEstimate:
        """Raises UserError where a package is missing for this choice."""
        if choice.rank not in self._models:
            self._models[choice.rank] = FullModel(self.config, choice)
        whole = self._models[choice.rank]
        sampling = [self._sample(choice, request) for request in self.counted.requests if request.role == "policy"]
        update = heaviest_update(self.counted.updates, choice)
        training = [] if update is None else [self._train(choice, update)]
        return MemoryEstimate(
            choice, _moment("sampling", sampling, whole, choice), _moment("training", training, whole, choice)
        )

    def _sample(self, choice: MemorySettings, request: SampleRequest) -> Window:
        key = replace(choice, micro_batch_tokens=0, chunk_tokens=0, checkpointing=False, optimizer=""), request
        if key not in self._sampling:
            self._sampling[key] = sampling_window(self.config, choice, request)
        return self._sampling[key]

    def _train(self, choice: MemorySettings, update: Update) -> Window:
        n_samples = sum(len(part.samples) for part in update.parts)
        key = replace(choice, n_gpus=min(choice.n_gpus, 2), cache_bytes=0, optimizer=""), n_samples
        if key not in self._training:
            self._training[key] = training_window(self.config, choice, update)
        return self._training[key]


def _moment(stage: str, windows: list[Window], whole: FullModel, choice: MemorySettings) -> Peak | None:
    """The largest window with what is there whatever is done."""
    if not windows:
        return None
    largest = max(windows, key=lambda window: window.total)
    return Peak(largest.label, {**whole.items(choice, stage), **largest.items})


def memory_settings(recipe: Recipe, n_gpus: int, counted: BatchCounts) -> MemorySettings:
    """The recipe's own choice, on GPUs that have bfloat16."""
    training, sampler = recipe.training, recipe.sampler
    return MemorySettings(
        n_gpus=n_gpus,
        micro_batch_tokens=training.micro_batch_tokens or GPU_TOKENS,
        chunk_tokens=training.chunk_tokens,
        checkpointing=training.gradient_checkpointing,
        optimizer=training.optimizer,
        rank=recipe.lora.rank,
        cache_bytes=int(sampler.cache_gib * GIB),
        base=recipe.model.dtype,
        trainer=recipe.model.dtype if training.autocast == "none" else "bfloat16",
        sampler="float32" if sampler.dtype == "float32" else "bfloat16",
        frozen=_frozen(recipe, counted),
    )


def _frozen(recipe: Recipe, counted: BatchCounts) -> FrozenModels:
    asked = {request.role for request in counted.requests}
    compared = False
    for update in counted.updates:
        for part in update.parts:
            compared |= part.needs_initial
    teacher = recipe.teacher
    is_start = not (teacher.path or teacher.endpoint.url)
    start_answers = "initial" in asked or ("teacher" in asked and is_start)
    other_answers = "teacher" in asked and bool(teacher.path) and not teacher.endpoint.url
    return FrozenModels(compared or start_answers, start_answers, other_answers)
