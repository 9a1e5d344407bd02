"""Check what a run needs before weights are loaded and a folder is made. `rethink train` and its dry run both call this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rethink.build import check_auxiliary_model, check_device, check_inputs, check_sampler, has_model, load_all_problems
from rethink.errors import UserError
from rethink.methods import needs_of
from rethink.methods.actors import Method
from rethink.methods.imitate import require_demonstrations
from rethink.models import lora
from rethink.models.model_info import ModelInfo, read_model_info
from rethink.objectives import Objective, objectives_of
from rethink.problems.rewards import Grader, build_grader
from rethink.prompts import PHASES_WITH_TEXTS, Prompts
from rethink.recipe import Recipe
from rethink.strategies import check_needs, parse_all
from rethink.training import optimizer
from rethink.training.no_effect import settings_without_effect
from rethink.training.open_trainer import why_unsupported
from rethink.training.trackers import check_trackers
from rethink.types import Demonstration, Message, Problem

FOLLOW_UP = (Message("assistant", "a draft"), Message("user", "a request"))
"""Stands for the prompts of phases that have no text among `prompts`."""

TEMPLATE_BYTES = 1000
"""More than chat templates add to a conversation of a few turns, also if they write a system message."""

DRAWS = 4
"""The draws of a generated problem's replies to imitate that are checked. Those of files are always the same."""


@dataclass(frozen=True)
class Inputs:
    """What a run works with besides its model. `has_model_files`: the model is on this machine."""

    method: Method
    problems: list[Problem]
    held_out: list[Problem]
    grader: Grader
    has_model_files: bool


def check_run(recipe: Recipe, *, hub: bool = True) -> Inputs:
    """Return the method, problems and grader of a run. Raise UserError for whatever the run would fail on.

    Load no weights; without `hub`, also no problems from the hub."""
    method = check_settings(recipe)
    check_software(recipe)
    check_inputs(recipe)
    info = read_model_info(recipe.model)
    problems, held_out = load_all_problems(recipe, hub)
    check_needs(parse_all(recipe.evaluation.strategy), held_out, judge=False)
    inputs = Inputs(method, problems, held_out, build_grader(recipe.rewards, problems), info is not None)
    if not needs_of(recipe.method["name"]).samples:
        require_demonstrations(problems, or_pairs=True)
    check_images(recipe, [*problems, *held_out], info)
    if recipe.training.vision != "frozen" and problems and not any(problem.all_images for problem in problems):
        raise UserError(
            f'training.vision = "{recipe.training.vision}" has no effect: no problem has images; leave it out'
        )
    if info is not None:
        check_lengths(recipe, info)
        if recipe.lora.rank and recipe.lora.targets != "all-linear":
            lora.check_targets(info.config, recipe.lora.targets)
        check_prompts(recipe, inputs, info)
        if not needs_of(recipe.method["name"]).samples:
            check_replies(recipe, inputs.problems, info)
    check_auxiliary_model("teacher", recipe.teacher, problems)
    return inputs


def check_settings(recipe: Recipe) -> Method:
    """Return the method. Raise UserError for settings that cannot train, train wrongly, or have no effect."""
    if not recipe.out.strip():
        raise UserError('out is "", which would fill the current folder: name a run folder, such as out=runs/mine')
    method: Method = recipe.build_method()
    objectives = list(objectives_of(method))
    sampling = recipe.sampling
    if objectives and not sampling.trainable:
        given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        wrong = [f"sampling.{name} = {value:g}" for name, value in given.items() if not _is_trainable(name, value)]
        raise UserError(
            f"training needs samples of the full distribution, but {', '.join(wrong)}: set temperature above 0, top_p = 1 "
            "and top_k = 0 (in evaluation.sampling, other values are fine)"
        )
    for name, objective in objectives:
        _check_objective(f"method.{name}", objective, sampling.max_tokens)
    if recipe.model.dtype != "float32" and not recipe.lora.rank:
        raise UserError(
            "training keeps float32 weights, because bfloat16 loses small steps; leave model.dtype at float32 and set "
            'training.autocast = "bfloat16" (only with lora.rank, which freezes them, can model.dtype be bfloat16)'
        )
    if recipe.lora.rank and recipe.model.random:
        raise UserError("lora.rank adapts existing weights, but model.random initializes them at random; set one only")
    refusal = why_unsupported(recipe, 1)
    if refusal:
        raise UserError(refusal)
    training = recipe.training
    weighted = training.old_log_probs == "sampler" or training.importance_sampling_mode != "none"
    if recipe.async_level and not weighted:
        raise UserError(
            'async_level above 0 trains on samples of older weights, and with training.old_log_probs = "recomputed" only '
            'importance weights correct for that; set training.importance_sampling_mode, such as "token_truncate"'
        )
    for message in settings_without_effect(recipe):
        raise UserError(message)
    return method


def check_software(recipe: Recipe) -> None:
    """Raise UserError if a device or a package that the recipe needs is missing here."""
    check_trackers(recipe.trackers)
    check_sampler(recipe)
    check_device(recipe.model)
    if recipe.lora.rank:
        lora.peft_version()
    if recipe.training.optimizer == "adamw8bit":
        optimizer.torchao_version()


def check_images(recipe: Recipe, problems: Sequence[Problem], info: ModelInfo | None) -> None:
    """Raise UserError if problems have images, and the model takes none."""
    first = next((problem for problem in problems if problem.all_images), None)
    if first is not None and info is not None:
        info.chat.require_images(f"problem {first.id}", recipe.model.path)


def check_lengths(recipe: Recipe, info: ModelInfo) -> None:
    """Raise UserError if replies may fill the model's positions, in training or in evaluation."""
    evaluation = recipe.evaluation
    needs = needs_of(recipe.method["name"])
    limits = {"sampling": recipe.sampling} if needs.samples else {}
    if evaluation.problems is not None:
        limits["evaluation.sampling"] = evaluation.sampling
        limits["evaluation.refine_sampling"] = evaluation.refine_sampling or evaluation.sampling
    for name, sampling in limits.items():
        check_room(f"{name}.max_tokens", sampling.max_tokens, info.max_positions)
    # A method's own limits of replies are named like `max_feedback_tokens`; they are the teacher's if it has a model.
    method: Any = recipe.build_method()
    is_other_model = needs.asks_teacher and has_model(recipe.teacher)
    for f in fields(method):
        if f.name.startswith("max_") and f.name.endswith("_tokens") and not is_other_model:
            check_room(f"method.{f.name}", getattr(method, f.name), info.max_positions)


def check_room(key: str, n_tokens: int, positions: int | None) -> None:
    """Raise UserError if replies of so many tokens leave no position for a prompt. `positions` is None if not known."""
    if positions is not None and n_tokens >= positions:
        raise UserError(
            f"{key} = {n_tokens} leaves no room for a prompt in the model's {positions} positions; lower it"
        )


def check_prompts(recipe: Recipe, inputs: Inputs, info: ModelInfo) -> None:
    """Raise UserError if the chat template cannot show the prompts, or if every prompt is too long."""
    limit = recipe.sampler.max_prompt_tokens
    if info.max_positions is not None and needs_of(recipe.method["name"]).samples:
        limit = min(limit, info.max_positions - recipe.sampling.max_tokens)
    prompts = _prompts(recipe)
    shortest = None
    for problem in inputs.problems:
        n_tokens = len(info.chat.encode(prompts.messages(problem)))
        shortest = n_tokens if shortest is None else min(shortest, n_tokens)
        if n_tokens <= limit and recipe.sampler.overlong_prompts == "skip":
            break
        if n_tokens > limit and recipe.sampler.overlong_prompts == "refuse":
            raise UserError(
                f"the prompt of problem {problem.id} has {n_tokens} tokens, over the limit of {limit}; raise "
                'sampler.max_prompt_tokens, lower sampling.max_tokens, or set sampler.overlong_prompts = "skip"'
            )
    if shortest is not None and shortest > limit:
        raise UserError(
            f"every prompt is too long: the shortest has {shortest} tokens, and the limit is {limit}; raise "
            "sampler.max_prompt_tokens, or lower sampling.max_tokens if the model has no more positions"
        )
    for messages in _later_prompts(recipe, inputs, prompts):
        info.chat.encode(messages)


def check_replies(recipe: Recipe, problems: Sequence[Problem], info: ModelInfo) -> None:
    """Raise UserError for a reply to imitate that has more tokens with its prompt than the model has positions.

    Tokenizing takes long, and a text has at most as many tokens as bytes, so most need not be tokenized."""
    prompts, limit = _prompts(recipe), info.max_positions
    if limit is None:
        return
    for problem in problems:
        for shown in _given_replies(problem):
            messages = prompts.messages(problem, shown.phase, shown.shown, shown.turns)
            n_bytes = sum(len(message.content.encode()) for message in messages) + len(shown.reply.encode())
            if n_bytes + TEMPLATE_BYTES <= limit and not problem.all_images:
                continue
            ids = info.chat.encode(messages)
            n = len(ids) + len(info.chat.encode_reply(shown.reply.removeprefix(info.chat.reply_prefix(ids))))
            if n > limit:
                raise UserError(
                    f"the {shown.phase} reply of problem {problem.id} has {n} tokens with its prompt, more than the "
                    f"model's {limit} positions; remove its row, or shorten it"
                )


def _given_replies(problem: Problem) -> list[Demonstration]:
    """Return the replies that a problem has to learn from, each once."""
    found = list(problem.preference or ())
    if problem.demonstrate is not None:
        for seed in range(DRAWS):
            found += problem.demonstrate(seed)
    return list(dict.fromkeys(found))


def _prompts(recipe: Recipe) -> Prompts:
    return Prompts(**{f.name: getattr(recipe.prompts, f.name) for f in fields(recipe.prompts)})


def _later_prompts(recipe: Recipe, inputs: Inputs, prompts: Prompts) -> Iterator[tuple[Message, ...]]:
    """Yield one prompt of each later phase of the run, and the first held-out prompt."""
    for problem in inputs.problems[:1]:
        for phase in needs_of(recipe.method["name"]).later_phases:
            turns = () if phase in PHASES_WITH_TEXTS else FOLLOW_UP
            yield prompts.messages(problem, phase, ("a draft", "a reflection"), turns)
    for problem in inputs.held_out[:1]:
        yield prompts.messages(problem)
        if any(strategy.revises for strategy in parse_all(recipe.evaluation.strategy)):
            yield prompts.messages(problem, "refine", ("a draft",))


def _is_trainable(name: str, value: float) -> bool:
    return value > 0 if name == "temperature" else value == {"top_p": 1, "top_k": 0}[name]


def _check_objective(key: str, objective: Objective, max_tokens: int) -> None:
    if objective.advantage == "maxrl" and objective.overlong_buffer:
        raise UserError(
            f'{key}.advantage = "maxrl" divides by the mean reward, which {key}.overlong_buffer can make negative; set '
            'overlong_buffer = 0 (with truncated = "wrong", cut replies have reward 0)'
        )
    if objective.overlong_buffer > max_tokens:
        raise UserError(
            f"{key}.overlong_buffer is {objective.overlong_buffer}, above sampling.max_tokens ({max_tokens}): every reply "
            "would lose reward; lower it"
        )
