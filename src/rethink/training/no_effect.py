"""Settings that cannot change a training run, given the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rethink.methods import needs_of
from rethink.objectives import Objective, objectives_of
from rethink.problems.files import suffix_of
from rethink.problems.rewards import VERDICT
from rethink.problems.suites import expand_sources, find_suite
from rethink.recipe import Recipe
from rethink.settings import (
    AuxiliaryModel,
    Evaluation,
    Lora,
    ModelSource,
    ProblemSource,
    Reward,
    Sampler,
    Training,
    default_of,
)
from rethink.strategies import parse_all

COLUMNS = ("question", "answer", "tools", "options", "context", "images", "id", "suite")
REPLIES = ("reply", "draft", "merged", "candidates", "failure", "chosen", "rejected")
GUARDS = ("verifier_timeout_s", "verifier_memory_gib", "verifier_sandbox")
"""The limits of a user's verifier, which has none in this process."""

LOADING = tuple(f.name for f in fields(ModelSource) if f.name != "path")
"""How a model on this machine is loaded."""

USED_BY = {
    "clip_low": ("clip", "gmpo", "cispo"),
    "clip_high": ("clip", "gmpo", "cispo"),
    "dual_clip": ("clip",),
    "importance_sampling_level": ("clip",),
    "tau_pos": ("sapo",),
    "tau_neg": ("sapo",),
}
"""The surrogates that use a setting of `Objective`; all of them use the others."""


def settings_without_effect(recipe: Recipe) -> Iterator[str]:
    """Yield a message about each setting that differs from its default and has no effect."""
    yield from _sampler(recipe.sampler, recipe.lora.rank)
    if recipe.async_level and not needs_of(recipe.method["name"]).samples:
        yield f"async_level has no effect: the method {recipe.method['name']!r} samples nothing; leave it out"
    if not recipe.lora.rank:
        yield from _changed("lora", recipe.lora, Lora(), ("alpha", "targets"), "set lora.rank above 0")
    yield from _importance_sampling(recipe.training)
    yield from _reference(recipe)
    yield from _models(recipe)
    yield from role_settings_without_effect("teacher", recipe.teacher)
    yield from role_settings_without_effect("judge", recipe.judge)
    yield from _rewards(recipe.rewards)
    yield from _evaluation(recipe.evaluation)
    yield from problem_settings_without_effect("problems", recipe.problems, ProblemSource().source, "train")
    if recipe.evaluation.problems is not None:
        yield from problem_settings_without_effect("evaluation.problems", recipe.evaluation.problems, "", "test")
    yield from _objectives(recipe)


def doubtful_settings(recipe: Recipe) -> Iterator[str]:
    """Yield a message about each setting that is no error, but may be a mistake: a learning rate that does not reach its
    peak, as in a short trial of a recipe, and shorter replies in evaluation than in training."""
    warmup, updates = recipe.training.warmup_updates, recipe.updates
    if warmup >= updates:
        yield (
            f"training.warmup_updates = {warmup} is not below updates = {updates}: the learning rate only reaches "
            f"{updates / (warmup + 1):.0%} of training.lr"
        )
    trained, evaluated = recipe.sampling.max_tokens, recipe.evaluation.sampling.max_tokens
    if recipe.evaluation.problems is not None and evaluated < trained and needs_of(recipe.method["name"]).samples:
        yield (
            f"evaluation.sampling.max_tokens = {evaluated} is below sampling.max_tokens = {trained}: held-out replies "
            "are cut earlier than those in training"
        )


def _changed(section: str, values: Any, defaults: Any, names: Sequence[str], why: str) -> Iterator[str]:
    for name in names:
        if getattr(values, name) != getattr(defaults, name):
            yield f"{section}.{name} has no effect: {why}"


def _importance_sampling(training: Training) -> Iterator[str]:
    bounds = ("importance_sampling_clip_max", "importance_sampling_clip_min")
    if training.old_log_probs == "sampler":
        why = 'set training.old_log_probs = "recomputed"'
        yield from _changed("training", training, Training(), ("importance_sampling_mode", *bounds), why)
    elif training.importance_sampling_mode == "none":
        why = 'training.importance_sampling_mode is "none"'
        yield from _changed("training", training, Training(), bounds, why)


def _sampler(sampler: Sampler, lora_rank: int) -> Iterator[str]:
    if sampler.engine == "local":
        names = ("urls", "gpu_memory", "concurrency", "timeout_s", "transfer")
        yield from _changed("sampler", sampler, Sampler(), names, 'set sampler.engine = "vllm"')
    elif not lora_rank:
        yield from _changed("sampler", sampler, Sampler(), ("transfer",), "set lora.rank above 0")
    if sampler.urls:
        why = "the servers in sampler.urls are running already"
        yield from _changed("sampler", sampler, Sampler(), ("gpu_memory",), why)


def _reference(recipe: Recipe) -> Iterator[str]:
    training, method = recipe.training, recipe.build_method()
    if not training.reference_every:
        why = "set training.reference_every above 0"
        yield from _changed("training", training, Training(), ("reference_mixup",), why)
    elif not needs_of(recipe.method["name"]).needs_reference:
        objectives = dict(objectives_of(method))
        if not any(objective.kl_coef for objective in objectives.values()):
            keys = " or ".join(f"method.{name}.kl_coef" for name in objectives) or "another method"
            yield f"training.reference_every has no effect: nothing compares with the start model; set {keys}"


def _models(recipe: Recipe) -> Iterator[str]:
    name = recipe.method["name"]
    needs = needs_of(name)
    if not needs.asks_teacher:
        declare = "; a class that asks one declares asks_teacher = True" if ":" in name else ""
        for key, value in (("path", recipe.teacher.path), ("endpoint.url", recipe.teacher.endpoint.url)):
            if value:
                yield f"teacher.{key} has no effect: method {name} has no teacher{declare}"
    if not needs.samples and recipe.rewards:
        yield f"rewards have no effect: method {name} imitates replies and samples none"
    if recipe.endpoint.url:
        yield "endpoint.url has no effect: training samples from the model itself, or from vLLM (sampler.engine)"


def role_settings_without_effect(role: str, model: AuxiliaryModel) -> Iterator[str]:
    """Yield messages about settings of a teacher or judge that nothing reads."""
    if model.path == "self":
        yield from _changed(role, model, AuxiliaryModel(), (*LOADING, "endpoint"), f'{role}.path is "self"')
    elif model.endpoint.url:
        yield from _changed(role, model, AuxiliaryModel(), LOADING, f"the model runs at {role}.endpoint.url")
    elif model.path:
        yield from _changed(role, model, AuxiliaryModel(), ("endpoint",), f"set {role}.endpoint.url")
    else:
        why = f"set {role}.path or {role}.endpoint.url"
        yield from _changed(role, model, AuxiliaryModel(), (*LOADING, "endpoint"), why)


def _rewards(rewards: Sequence[Reward]) -> Iterator[str]:
    for n, reward in enumerate(rewards):
        section, default = f"rewards.{n}", Reward(reward.function)
        if reward.function == VERDICT:
            names = [f.name for f in fields(Reward) if f.name not in ("function", "weight")]
            yield from _changed(section, reward, default, names, "the term is the verdict, which the verifier gives")
        elif reward.in_process:
            why = "a function in this process has neither limits nor a sandbox"
            yield from _changed(section, reward, default, ("timeout_s", "memory_gib", "sandbox"), why)


def _evaluation(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.problems is None:
        names = tuple(asdict(Evaluation()))
        why = "nothing is evaluated; set evaluation.problems.source"
        yield from _changed("evaluation", evaluation, Evaluation(), names, why)
        return
    strategies = parse_all(evaluation.strategy)
    if all(strategy.stages[-1][0] != "refine" for strategy in strategies):
        why = "no strategy ends with refine"
        yield from _changed("evaluation", evaluation, Evaluation(), ("n_refine",), why)
    if not any(strategy.stages[1:] for strategy in strategies):
        why = f"the strategy {evaluation.strategy} refines nothing"
        yield from _changed("evaluation", evaluation, Evaluation(), ("refine_sampling",), why)


def problem_settings_without_effect(section: str, source: ProblemSource, default: str, purpose: str) -> Iterator[str]:
    """Yield messages about settings of problems that none of the sources reads.

    A recipe for a suite may name the split that is used anyway (`purpose`), so its source can be replaced by a file."""
    if not isinstance(source.source, str) or source.source == "":
        return
    kinds = {_kind(name) for name in expand_sources(source.source)}
    generated = kinds <= {"countdown", "signs", "shapes", "gym"}
    rules: list[tuple[bool, tuple[str, ...], str]] = [
        (generated, COLUMNS + REPLIES, f"{source.source} makes its problems; set {section}.source to your file"),
        (generated or kinds == {"file"}, ("subsets",), f"{source.source} has no subsets"),
        ("suite" not in kinds, ("data",), "only suites are looked up in a folder"),
        (
            kinds == {"file"} and source.split != purpose,
            ("split",),
            f"{source.source} is one file and has no splits; {section}.held_out makes some",
        ),
        (not kinds & {"countdown", "signs"}, ("numbers", "largest"), "only countdown and signs use it"),
        ("signs" not in kinds, ("lines",), "only signs uses it"),
        ("shapes" not in kinds, ("level",), "only shapes uses it"),
        (not kinds & {"countdown", "signs", "shapes"}, ("replies",), "only countdown, signs and shapes use it"),
        (
            kinds <= {"countdown", "signs"} and not source.verifier,
            ("extraction",),
            f"{source.source} has one way to write an answer",
        ),
        ("gym" not in kinds, ("gym", "size", "partial_scores"), "only gym tasks use it"),
        (
            ":" not in source.verifier,
            ("right_threshold", *GUARDS, "verifier_in_process"),
            f"only a verifier of your own (module:function) uses it; see {section}.verifier",
        ),
        (":" in source.verifier, ("extraction",), "a verifier of your own gets the whole reply"),
        (":" in source.verifier and source.verifier_in_process, GUARDS, "verifier_in_process leaves them out"),
    ]
    for applies, keys, why in rules:
        if applies:
            yield from _changed(section, source, ProblemSource(default), keys, why)


def _kind(name: str) -> str:
    if name in ("countdown", "signs", "shapes"):
        return name
    if name.startswith(("gym:", "shapes:")):
        return name.partition(":")[0]
    if find_suite(name) is not None:
        return "suite"
    has_splits = suffix_of(Path(name)) == ".json"  # it may: {"train": [...], "test": [...]}
    return "file" if Path(name).is_file() and not has_splits else "other"


def _objectives(recipe: Recipe) -> Iterator[str]:
    method = recipe.build_method()
    defaults = {f.name: default_of(f) for f in fields(method)}
    for name, objective in objectives_of(method):
        section = f"method.{name}"
        default = defaults[name] if isinstance(defaults[name], Objective) else Objective()
        if objective.loss_aggregation != "constant":
            yield from _changed(section, objective, default, ("constant_length",), 'loss_aggregation is not "constant"')
        if not objective.kl_coef and not needs_of(recipe.method["name"]).needs_reference:
            yield from _changed(section, objective, default, ("kl_estimator",), f"set {section}.kl_coef above 0")
        for key, surrogates in USED_BY.items():
            if objective.surrogate not in surrogates:
                why = f"only the surrogate {' or '.join(surrogates)} uses it"
                yield from _changed(section, objective, default, (key,), why)
