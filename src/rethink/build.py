"""From the names in a recipe to models, policies, prompts and problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from transformers.utils import logging

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.load import load_model
from rethink.policies.base import Policy
from rethink.policies.local import LocalPolicy
from rethink.problems.source import load_problems, refuse_overlap
from rethink.prompts import Prompts
from rethink.recipe import Recipe
from rethink.settings import AuxiliaryModel, ModelSource
from rethink.types import Problem, Sampling

Warn = Callable[[str], None]


def open_model(source: ModelSource, seed: int, checkpoint: str | None = None) -> LanguageModel:
    """Return the recipe's model, or its weights as a checkpoint has them."""
    logging.disable_progress_bar()  # bars of the library's own would break up ours
    device = source.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(
        checkpoint or source.path,
        dtype=source.dtype,
        device=device,
        template=source.template,
        template_options=source.template_options,
        random_seed=seed if source.random and checkpoint is None else None,
    )


def local_policy(recipe: Recipe, model: LanguageModel, sampling: Sampling) -> LocalPolicy:
    """Return a policy over the model within the recipe's limits."""
    settings = recipe.sampler
    return LocalPolicy(
        model,
        sampling,
        max_prompt_tokens=settings.max_prompt_tokens,
        overlong=settings.overlong_prompts,
        cache_bytes=int(settings.cache_gib * 2**30) or None,
        dtype=pick_dtype(settings.dtype, model),
        cuda_graphs=settings.cuda_graphs,
    )


def open_auxiliary_model(recipe: Recipe, source: ModelSource) -> Policy:
    """Return the policy over a model that is not trained, here or behind an endpoint."""
    if isinstance(source, AuxiliaryModel) and source.endpoint.url:
        from rethink.policies.endpoint.policy import EndpointPolicy

        return EndpointPolicy(source.endpoint, source.path, recipe.sampling, overlong=recipe.sampler.overlong_prompts)
    return local_policy(recipe, open_model(source, recipe.seed), recipe.sampling)


def has_model(role: AuxiliaryModel) -> bool:
    """Return whether the recipe names a model for this role."""
    return bool(role.path or role.endpoint.url)


def check_sampler(recipe: Recipe) -> None:
    """Raise UserError where the recipe's sampler cannot run here; loads nothing."""
    if recipe.sampler.engine == "vllm":
        from rethink.policies.vllm.start import check_settings

        check_settings(recipe.sampler)


def load_all_problems(recipe: Recipe) -> tuple[list[Problem], list[Problem]]:
    """Return training and held-out problems. Raises UserError where they overlap, or are fewer than a batch."""
    problems = load_problems(recipe.problems, recipe.seed)
    if len(problems) < recipe.problems_per_batch:
        raise UserError(
            f"a batch takes {recipe.problems_per_batch} problems (problems_per_batch), but there are only {len(problems)}"
        )
    if recipe.evaluation.problems is None:
        return problems, []
    held_out = load_problems(recipe.evaluation.problems, recipe.seed, "test")
    refuse_overlap(problems, held_out)
    return problems, held_out


def build_prompts(recipe: Recipe, seed: int) -> Prompts:
    """Return the recipe's texts, for samples that derive from this seed."""
    return Prompts(**asdict(recipe.prompts), seed=seed)
