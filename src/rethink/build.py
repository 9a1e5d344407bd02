"""Build the models, policies, prompts and problems that a recipe names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils import logging

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.load import load_model
from rethink.models.model_info import read_model_info
from rethink.policies.base import Policy
from rethink.policies.local import LocalPolicy
from rethink.problems.answer_format import read_after
from rethink.problems.source import load_problems, needs_hub, refuse_overlap
from rethink.prompts import Prompts
from rethink.recipe import Recipe
from rethink.recipes.made_by import commands_that_make
from rethink.settings import AuxiliaryModel, ModelSource
from rethink.types import Problem, Sampling

Warn = Callable[[str], None]


def open_model(source: ModelSource, seed: int, checkpoint: str | None = None) -> LanguageModel:
    """Return the model, or a checkpoint of it. "auto" picks a GPU if there is one."""
    logging.disable_progress_bar()  # the library's progress bars would break up ours
    check_device(source)
    device = source.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(
        checkpoint or source.path,
        dtype=source.dtype,
        head_dtype=source.head_dtype,
        device=device,
        template=source.template,
        template_options=source.template_options,
        thinking=source.thinking,
        image_pixels=source.image_pixels,
        random_seed=seed if source.random and checkpoint is None else None,
    )


def check_device(source: ModelSource) -> None:
    """Raise UserError if the model's device is a GPU and there is none."""
    if source.device == "cuda" and not torch.cuda.is_available():
        why = "this torch has no CUDA" if torch.version.cuda is None else "torch finds no GPU"
        raise UserError(f'model.device = "cuda", but {why}; write model.device=auto or cpu')


def local_policy(recipe: Recipe, model: LanguageModel, sampling: Sampling) -> LocalPolicy:
    """Return a policy that samples from the model on this machine, with the recipe's sampler settings."""
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


def load_policy(model: str, sampling: Sampling = Sampling(), *, random_seed: int | None = None) -> LocalPolicy:
    """Return a policy that samples from a model on this machine: a folder, a GGUF file, a hub name, "tiny" or
    "tiny-signs".

    With `random_seed`, the weights are random. Raise UserError if the model cannot be loaded, or is not supported.

    >>> import rethink
    >>> policy = rethink.load_policy("tiny", rethink.Sampling(temperature=0.0, max_tokens=24))
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=2))
    >>> answers = rethink.evaluate(policy, problems, rethink.AnswerSettings("solve", sampling=policy.sampling))
    >>> len(answers)
    2
    """
    source = ModelSource(model, random=random_seed is not None)
    return LocalPolicy(open_model(source, random_seed or 0), sampling)


def open_auxiliary_model(recipe: Recipe, source: ModelSource, warn: Callable[[str], None] = warnings.warn) -> Policy:
    """Return the policy of a model that is not trained (a teacher, a judge), loaded here or served by an endpoint.

    Raise UserError if it cannot be opened, or if the endpoint's model has no name."""
    if isinstance(source, AuxiliaryModel) and source.endpoint.url:
        from rethink.policies.endpoint.policy import EndpointPolicy

        check_model_name(source)
        overlong = recipe.sampler.overlong_prompts
        return EndpointPolicy(source.endpoint, source.path, recipe.sampling, overlong=overlong, warn=warn)
    return local_policy(recipe, open_model(source, recipe.seed), recipe.sampling).take_weights()


def has_model(role: AuxiliaryModel) -> bool:
    """Return whether the recipe names a model for this role, by path or by endpoint."""
    return bool(role.path or role.endpoint.url)


def check_model_name(role: AuxiliaryModel) -> None:
    """Raise UserError if the role has an endpoint, but no name of a model."""
    if role.endpoint.url and not role.path:
        raise UserError(
            f"{role.endpoint.url} needs the name of the model that it serves: set judge.path for a judge, or teacher.path "
            "for a teacher"
        )


def check_auxiliary_model(role: str, source: AuxiliaryModel, problems: Iterable[Problem]) -> None:
    """Raise UserError if the model of a role ("teacher", "judge") is not whole, or if it takes no images and problems have
    some. Of an endpoint's model, only the name is checked."""
    check_model_name(source)
    if not has_model(source) or source.endpoint.url or source.path == "self":
        return
    info = read_model_info(source)
    first = next((problem for problem in problems if problem.all_images), None)
    if info is not None and first is not None:
        info.chat.require_images(f"problem {first.id}", f"the {role} {source.path}")


def check_sampler(recipe: Recipe) -> None:
    """Raise UserError if the recipe's sampler cannot run here. Load nothing."""
    if recipe.sampler.engine == "vllm":
        from rethink.policies.vllm.start import check_settings

        check_settings(recipe.sampler)


def check_inputs(recipe: Recipe) -> None:
    """Raise UserError, with the commands to run first, if a file or model is missing that other shipped recipes make."""
    read = {"model.path": recipe.model.path, "problems.source": recipe.problems.source}
    for name, role in (("teacher", recipe.teacher), ("judge", recipe.judge)):
        if not role.endpoint.url:
            read[f"{name}.path"] = role.path
    for key, path in read.items():
        commands = [] if Path(path).exists() else commands_that_make(path)
        if commands:
            raise UserError(f"{key}: there is no {path} yet; make it with: {' && '.join(commands)}")


def load_all_problems(recipe: Recipe, hub: bool = True) -> tuple[list[Problem], list[Problem]]:
    """Return training and held-out problems. Raise UserError if they overlap or do not fill a batch.

    Without `hub`, sources on the hub have no problems here."""
    skipped = not hub and needs_hub(recipe.problems)
    problems = [] if skipped else load_problems(recipe.problems, recipe.seed)
    if not skipped and len(problems) < recipe.problems_per_batch:
        raise UserError(
            f"problems_per_batch is {recipe.problems_per_batch}, but there are only {len(problems)} training problems"
        )
    thinking = recipe.model.thinking
    if recipe.evaluation.problems is None:
        return read_after(problems, thinking), []
    if not recipe.evaluation.problems.source:
        raise UserError("evaluation.problems.source is missing: name the problems to evaluate on")
    if not hub and needs_hub(recipe.evaluation.problems):
        return read_after(problems, thinking), []
    held_out = load_problems(recipe.evaluation.problems, recipe.seed, "test")
    refuse_overlap(problems, held_out)
    return read_after(problems, thinking), read_after(held_out, thinking)


def build_prompts(recipe: Recipe, seed: int) -> Prompts:
    """Return the recipe's prompts. The seeds of all samples derive from this seed."""
    return Prompts(**asdict(recipe.prompts), thinking=recipe.model.thinking, seed=seed)
