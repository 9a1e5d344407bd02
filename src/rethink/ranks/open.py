"""Policy and trainer of a run in several processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from rethink.config import Recipe
from rethink.model import LanguageModel, pick_dtype
from rethink.policies.local import LocalPolicy
from rethink.ranks.build import build, copy_of, fill
from rethink.ranks.engine import ShardedEngine
from rethink.ranks.group import Ranks
from rethink.ranks.policy import SharedPolicy


def open_shared(
    recipe: Recipe,
    found: Path | None,
    ranks: Ranks,
    open_model: Callable[[str | None], LanguageModel],
    policy_over: Callable[[LanguageModel], LocalPolicy],
) -> tuple[ShardedEngine, SharedPolicy[LocalPolicy]]:
    """The sharded model, and a policy over a copy of it on each rank, which is made anew by every `publish`.

    `open_model` loads the whole model, the recipe's or a checkpoint's, onto the CPU; rank 0 alone calls it.
    """
    start = None if found is None else str(found)
    device = _device(recipe)
    engine, hollow = build(ranks, lambda: open_model(start), recipe.training, device)
    copy = copy_of(hollow, device, pick_dtype(recipe.limits.sampler_dtype, hollow, device))
    policy = SharedPolicy(policy_over(copy), ranks, lambda: fill(copy, engine.named_weights()))
    return engine, policy


def on_cpu(recipe: Recipe) -> Recipe:
    """The same, with its model on the CPU."""
    return replace(recipe, model=replace(recipe.model, device="cpu"))


def _device(recipe: Recipe) -> torch.device:
    if recipe.model.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
