"""Settings typed after `rethink eval`, `answer` or `cross`: each must have an effect, and none replaces an argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rethink.commands.console import toml_string
from rethink.errors import UserError
from rethink.recipe import Recipe
from rethink.recipes.overrides import parse_value
from rethink.training.no_effect import problem_settings_without_effect, role_settings_without_effect

WRITTEN_AS = {
    "model.path": "MODEL",
    "evaluation.problems.source": "--on",
    "evaluation.strategy": "--strategy",
    "endpoint.url": "--endpoint",
    "evaluation.problems.data": "--data",
    "evaluation.problems.extraction": "--lenient",
}
"""Settings that have an argument or option, and its name."""

USED = ("seed", "model", "prompts", "sampler", "evaluation", "endpoint", "judge")
"""What an evaluation reads of a recipe. The rest is for training."""

OF_VLLM = ("engine", "urls", "gpu_memory", "concurrency", "timeout_s", "transfer")
NOT_AT_ENDPOINT = (
    "model.template",
    "model.template_options",
    "model.random",
    "model.image_pixels",
    "sampler.max_prompt_tokens",
)
"""Settings of `sampler` that are for vLLM, and those that change answers, but not those of a model at an endpoint."""


def with_options(options: Mapping[str, str | None], settings: Sequence[str]) -> list[str]:
    """Return the options that were given as settings (key=value), and the settings. They must not contradict."""
    if options.get("endpoint.url") == "":
        raise UserError("--endpoint is empty: is the variable that it names set? Without --endpoint, MODEL runs here")
    given = {key: value for key, value in options.items() if value}
    refuse_contradictions(given, settings)
    return [*(f"{key}={toml_string(value)}" for key, value in given.items()), *settings]


def refuse_contradictions(given: Mapping[str, str], settings: Sequence[str]) -> None:
    """Raise UserError if a setting replaces what an argument or option says. `given`: the setting that each stands for."""
    for word in settings:
        key, _, text = word.partition("=")
        for name, value in given.items():
            same = name == key and parse_value(text) == value
            if value and not same and (name == key or name.startswith(f"{key}.")):
                raise UserError(f"{word} replaces {WRITTEN_AS[name]} ({value}): leave one of them out")


def refuse_without_effect(settings: Sequence[str], recipe: Recipe, unused: Sequence[str] = ()) -> None:
    """Raise UserError for a setting that only training uses, and for the `unused` keys of `evaluation`, which this command
    does not use. `recipe` is the result; its own settings are not looked at."""
    has_local_judge = recipe.judge.path not in ("", "self") and not recipe.judge.endpoint.url
    unread = {message.split()[0]: message for message in _unread(recipe)}
    for word in settings:
        key = word.partition("=")[0].strip().lstrip("+")
        section, _, name = key.partition(".")
        for other, message in unread.items():
            if key == other or key.startswith(f"{other}."):
                raise UserError(message)
        if section == "sampling" and (recipe.judge.path or recipe.judge.endpoint.url):
            continue  # the judge's
        if section in ("problems", "sampling"):
            raise UserError(f"{word} has no effect here: it is for training; write evaluation.{word}")
        if key == "out":
            raise UserError(f"{word} has no effect here: write --{word}")
        if section not in USED or key in ("evaluation.every", "evaluation.at_start"):
            raise UserError(f"{word} has no effect here: only `rethink train` uses it")
        if section == "evaluation" and name in unused:
            raise UserError(f"{word} has no effect here: this command does not use it")
        if section == "endpoint" and not recipe.endpoint.url:
            raise UserError(f"{word} has no effect: name the server with --endpoint URL")
        if section == "sampler" and name in OF_VLLM and word.partition("=")[2].strip("\"'") != "local":
            is_of_server = recipe.endpoint.url and name in ("concurrency", "timeout_s")
            instead = f"endpoint.{name}" if is_of_server else "--endpoint URL, for a server that runs already"
            raise UserError(f"{word} has no effect here: only `rethink train` runs vLLM; write {instead}")
        if has_local_judge and key == "sampler.max_prompt_tokens":
            continue  # the judge's
        if recipe.endpoint.url and key.startswith(NOT_AT_ENDPOINT):
            raise UserError(f"{word} has no effect: the model runs at {recipe.endpoint.url}")


def refuse_with_drafts(settings: Sequence[str]) -> None:
    """Raise UserError for a setting that given drafts leave without effect."""
    for word in settings:
        if word.partition("=")[0].strip().lstrip("+") == "evaluation.n":
            raise UserError(
                f"{word} has no effect with --drafts: a problem gets as many attempts as it has drafts. To refine each of "
                "them several times, write evaluation.n_refine=N"
            )


def _unread(recipe: Recipe) -> Iterator[str]:
    """Yield messages about settings of problems and of the judge that nothing reads."""
    if recipe.evaluation.problems is not None:
        for message in problem_settings_without_effect("evaluation.problems", recipe.evaluation.problems, "", "test"):
            if not message.startswith("evaluation.problems.images "):  # a column of --drafts
                yield message
    yield from role_settings_without_effect("judge", recipe.judge)
