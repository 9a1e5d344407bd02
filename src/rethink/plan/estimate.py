"""A recipe on some GPUs: the moments of its updates, and their seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from rethink.objectives import Update, split
from rethink.plan.counted import Counted
from rethink.plan.memory import GIB, Moment, Setup
from rethink.plan.sampling import sampling_moments
from rethink.plan.seconds import Machine, sampling_s, training_s
from rethink.plan.shape import Batch, Shape
from rethink.plan.training import training_moments
from rethink.recipe import Recipe
from rethink.train.losses import loss_of
from rethink.train.micro_batch import TrainingSample, pack
from rethink.train.trainer import GPU_TOKENS

CONTEXT = GIB
"""What CUDA and its libraries take before anything is allocated: an assumption."""

FRAGMENTS = 0.05
"""What the allocator cannot use, as a share of the peak: an assumption."""


@dataclass(frozen=True)
class Choice:
    """Settings that can be changed for memory's sake, without another objective."""

    setup: Setup
    micro_batch_tokens: int

    def with_(self, **changes: object) -> Choice:
        return replace(self, setup=self.setup.with_(**changes))


@dataclass(frozen=True)
class Estimate:
    """What the tokens of one problem batch need under a choice."""

    choice: Choice
    counted: Counted
    recomputed: bool = False

    @cached_property
    def moments(self) -> Sequence[Moment]:
        """Of all requests and all optimizer steps."""
        setup = self.choice.setup
        own = [r for r in self.counted.requests if r.role == "policy"]
        found = [moment for request in own for moment in sampling_moments(setup, request)]
        for batches in self.steps:
            here = -(-len(batches) // setup.n_gpus)
            found += [moment for batch in _outermost(batches) for moment in training_moments(setup, batch, here)]
        return found

    @cached_property
    def steps(self) -> list[list[Batch]]:
        """The micro-batches of each optimizer step of the problem batch."""
        return _steps(self.counted, self.choice.micro_batch_tokens)

    def largest(self, stage: str) -> Moment | None:
        """The moment of a stage that needs the most; None where the stage has none."""
        return max((m for m in self.moments if m.stage == stage), key=lambda m: m.n_bytes, default=None)

    @property
    def peak(self) -> float:
        """Bytes per GPU."""
        return max((m.n_bytes for m in self.moments), default=0.0)

    @property
    def needed(self) -> float:
        """The peak with what is assumed for CUDA and fragments."""
        return self.peak * (1 + FRAGMENTS) + CONTEXT

    def sampling_s(self, machine: Machine) -> float:
        """Seconds of sampling, of the whole problem batch; roles that answer here take as long as the policy."""
        return sum(sampling_s(self.choice.setup, machine, r) for r in self.counted.requests)

    def training_s(self, machine: Machine) -> float:
        """Seconds of all optimizer steps of the problem batch."""
        every = [batch for batches in self.steps for batch in batches]
        n_flat, n_trained = sum(b.flat for b in every), sum(b.trained for b in every)
        n_forward = n_trained * (int(self.recomputed) + int(self.choice.setup.frozen > 0))
        rows = self.counted.rows
        length = sum(rows) / max(1, len(rows)) / 2
        return training_s(self.choice.setup, machine, n_flat, n_trained, n_forward, length)


def choice_of(recipe: Recipe, shape: Shape, n_gpus: int, counted: Counted) -> Choice:
    """The recipe's own choice, on GPUs that have bfloat16."""
    matrix, sampler = (
        4 if name in ("none", "float32") else 2 for name in (recipe.training.autocast, recipe.limits.sampler_dtype)
    )
    frozen, start, sampled = _frozen(recipe, counted)
    setup = Setup(
        shape=shape,
        n_gpus=n_gpus,
        matrix=matrix,
        sampler=sampler,
        attention=matrix,
        sampler_cache=sampler,
        optimizer=recipe.training.optimizer,
        recompute=recipe.training.gradient_checkpointing,
        chunk_tokens=recipe.training.chunk_tokens,
        cache_bytes=int(recipe.limits.cache_gib * GIB),
        rank=recipe.lora.rank,
        base=4 if recipe.model.dtype == "float32" else 2,
        frozen=frozen,
        start=start,
        frozen_sampled=sampled,
        shared_masks=False,
    )
    return Choice(setup, recipe.training.micro_batch_tokens or GPU_TOKENS)


def _frozen(recipe: Recipe, counted: Counted) -> tuple[int, int, int]:
    """How many models are kept beside the policy, how many of them are the start weights (these count once), and how many
    answer; another teacher counts as one of the same size."""
    asked = {r.role for r in counted.requests}
    parts = [part for update in counted.updates for part in update.parts]
    compared = any(part.needs_initial for part in parts)
    other = "teacher" in asked and bool(recipe.teacher.path) and not recipe.teacher.endpoint.url
    start = "initial" in asked or ("teacher" in asked and not (recipe.teacher.path or recipe.teacher.endpoint.url))
    return int(compared or start) + int(other), int(compared or start), int(start) + int(other)


@cache
def _steps(counted: Counted, max_tokens: int) -> list[list[Batch]]:
    found = [_micro_batches(update, max_tokens) for update in counted.updates]
    return [batches for update in found for batches in update if batches]


def _micro_batches(update: Update, max_tokens: int) -> list[list[Batch]]:
    """Of each optimizer step."""
    steps: list[list[Batch]] = [[] for _ in range(update.n_steps)]
    for part in update.parts:
        for batches, share in zip(steps, split(part, update.n_steps), strict=True):
            batches += [_size(some) for some in pack(loss_of(part).samples(share), max_tokens)]
    return steps


def _size(samples: Sequence[TrainingSample]) -> Batch:
    prompts = {one.sample.prompt_ids for one in samples}
    replies = [(len(one.sample.prompt_ids), one.n_fed, one.sample.n_trained) for one in samples]
    return Batch.of([len(ids) for ids in prompts], replies)


def _outermost(batches: Sequence[Batch]) -> Sequence[Batch]:
    """Those that may need the most."""
    keys = (lambda b: b.flat, lambda b: b.trained, lambda b: b.mask + b.keys)
    return {max(batches, key=key) for key in keys}  # type: ignore[return-value]
