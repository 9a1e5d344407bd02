"""Recipes: defaults, then a TOML file, then `key=value` settings; later ones win. An unknown key is an error.

The sections are the dataclasses that the code itself uses (`rethink.settings`), so no default is written twice.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from rethink import recipes
from rethink.errors import UserError
from rethink.methods import find_method
from rethink.models import bundled
from rethink.models.gguf.locate import find, is_gguf
from rethink.objectives.presets import forget_replaced, with_preset
from rethink.prompts import PromptTexts
from rethink.recipes import keys, values
from rethink.recipes.overrides import apply_overrides, parse_value
from rethink.settings import (
    AnswerSettings,
    AuxiliaryModel,
    Distributed,
    Endpoint,
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
from rethink.types import Sampling


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run or an evaluation.

    - `out`: the run folder.
    - `seed`: the seed of all randomness.
    - `updates`: the number of updates after which the run ends, once the problem batch is finished. Methods that also train
      refinements make two or more per problem batch.
    - `problems_per_batch`: the number of problems in a problem batch.
    - `checkpoint_every`: the number of updates between checkpoints.
    - `checkpoint_minutes`: the longest time between checkpoints, in minutes, unless a batch or saving takes very long;
      0 saves only by updates. These additional checkpoints are replaced by the next one.
    - `keep_checkpoints`: how many of the newest checkpoints are kept.
    - `n_logged_samples`: the number of samples per update that are written to samples.jsonl.
    - `trackers`: experiment trackers that get each record of metrics.jsonl, and some samples of each evaluation:
      "tensorboard", "wandb", "trackio", "mlflow" (docs/trackers.md).
    - `async_level`: how many problem batches sampling may be ahead of training; 0 samples and trains in turn, 1 is one-step
      off-policy (docs/performance.md).
    - `model`: the model to train or evaluate; see `ModelSource`.
    - `method`: the method's name and its settings (docs/methods/README.md). `method.objective` names a preset, such as
      "gspo", for all objectives of the method (docs/losses.md); single settings of these win, but on the command line the
      preset wins over the recipe file's.
    - `problems`: the problems to train on; see `ProblemSource`.
    - `rewards`: terms that are added to the reward; without any, the reward is the verdict. See `Reward`.
    - `prompts`: the instruction texts; see `PromptTexts`.
    - `sampling`: how replies are sampled in training; see `Sampling`.
    - `sampler`, `training`, `lora`, `distributed`, `evaluation`, `endpoint`: see the classes of these names.
    - `teacher`, `judge`: second models; see `AuxiliaryModel`.
    """

    out: str = "runs/run"
    seed: int = 0
    updates: PositiveInt = 100
    problems_per_batch: PositiveInt = 32
    checkpoint_every: PositiveInt = 50
    checkpoint_minutes: NonNegativeFloat = 5.0
    keep_checkpoints: PositiveInt = 2
    n_logged_samples: NonNegativeInt = 8
    trackers: tuple[str, ...] = ()
    async_level: NonNegativeInt = 0
    model: ModelSource = ModelSource()
    method: dict[str, Any] = field(default_factory=lambda: {"name": "think_twice"})
    problems: ProblemSource = ProblemSource()
    rewards: tuple[Reward, ...] = ()
    prompts: PromptTexts = PromptTexts()
    sampling: Sampling = Sampling()
    sampler: Sampler = Sampler()
    training: Training = Training()
    lora: Lora = Lora()
    distributed: Distributed = Distributed()
    evaluation: Evaluation = Evaluation()
    endpoint: Endpoint = Endpoint()
    teacher: AuxiliaryModel = AuxiliaryModel()
    judge: AuxiliaryModel = AuxiliaryModel()

    def build_method(self) -> Any:
        """Return the method with its settings. Raise UserError for an unknown method, objective or setting."""
        settings = dict(self.method)
        cls = find_method(str(settings.pop("name", "")))
        if "objective" in settings and "objective" not in keys.fields_of(cls):
            settings = with_preset(settings.pop("objective"), cls, settings)
        return _validated(cls, settings, "method.", _all_keys(self.method))


def load_recipe(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe, with every setting checked and filled in: a file, one that ships with the package, or the defaults.

    `overrides` are settings as on the command line, "key=value". Raise UserError for a missing file, bad TOML, unknown
    keys, values of a wrong type and values out of range.

    >>> import rethink
    >>> recipe = rethink.load_recipe("demo-think-twice", ["updates=4", "training.lr=1e-4"])
    >>> recipe.updates, recipe.training.lr, recipe.method["name"]
    (4, 0.0001, 'think_twice')
    """
    table = {} if recipe is None else recipes.read(str(recipe))
    if isinstance(overrides, str):
        raise UserError(f"overrides must be a list of settings, such as [{overrides!r}]")
    for override in overrides:
        key, _, value = override.partition("=")
        if key.strip().lstrip("+") == "method.objective" and isinstance(table.get("method"), dict):
            forget_replaced(parse_value(value), table["method"])
    apply_overrides(overrides, table, _all_keys(table.get("method")))
    return _build_recipe(table)


def name_checkpoints(recipe: Recipe, tell: Callable[[str], None]) -> Recipe:
    """Return the recipe with the newest valid checkpoint in place of each run folder that it names as a model.

    `tell` gets a message that names it, and one for each GGUF file. Raise UserError for a model folder or file that does
    not exist, and for a run without checkpoints."""
    for role in () if recipe.endpoint.url else ("model", "teacher", "judge"):
        source = getattr(recipe, role)
        if not source.path or (role != "model" and (source.endpoint.url or source.path == "self")):
            continue
        found = bundled.resolve(source.path, tell)
        if bundled.is_run(Path(source.path)):
            tell(f"{source.path} is a run; using its newest checkpoint, {found}")
            recipe = dataclasses.replace(recipe, **{role: dataclasses.replace(source, path=found)})
        elif is_gguf(found):
            from rethink.models.gguf.folder import announce  # imports torch

            tell(announce(find(found)))
    return recipe


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML, with every key, including those of the method."""
    return tomli_w.dumps(_table(recipe))


def changed_toml(recipe: Recipe) -> str:
    """Return the settings that differ from their defaults as TOML. It is a recipe that loads as this one."""
    defaults = _build_recipe({"method": {"name": recipe.method["name"], **_required(recipe)}})
    changed = _difference(_table(recipe), _table(defaults))
    changed["method"] = {"name": recipe.method["name"], **_required(recipe), **changed.pop("method", {})}
    held_out = changed.get("evaluation", {}).get("problems")
    if held_out is not None:
        nothing = _table(_build_recipe({"evaluation": {"problems": {"source": ""}}}))
        changed["evaluation"]["problems"] = _difference(held_out, nothing["evaluation"]["problems"])
    return tomli_w.dumps(changed)


def _required(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of the method that have no default."""
    method = recipe.build_method()
    required: dict[str, Any] = {}
    for f in dataclasses.fields(method):
        if f.init and default_of(f) is dataclasses.MISSING:
            required[f.name] = getattr(method, f.name)
    return required


def add_new_defaults(stored: str) -> str:
    """Return a saved recipe (TOML by `to_toml`) with all keys of this version: newer keys get their defaults.

    Raise UserError for keys that no longer exist, and for an incomplete file.
    """
    try:
        table = tomllib.loads(stored)
        if "out" in table and "judge" in table:  # the first and the last key of a whole file
            return to_toml(_build_recipe(table))
    except (UserError, tomllib.TOMLDecodeError) as err:
        raise UserError(
            f"it was written by another version of rethink, or edited: {err}. Resume with that version or start a new run"
        ) from err
    raise UserError("it is empty or its end is missing. Restore the file, or start a new run with another out=DIR")


def known_keys() -> Iterator[str]:
    """Yield every key of a recipe as `section.key`, except the settings of methods."""
    yield from keys.known_keys(Recipe)


def _all_keys(method: Any) -> list[str]:
    """Return every key of a recipe with this method, for suggestions."""
    try:
        name = method["name"] if isinstance(method, Mapping) and "name" in method else Recipe().method["name"]
        cls = find_method(str(name))
        return [*keys.known_keys(Recipe), *keys.known_keys(cls, "method."), "method.objective"]
    except UserError:  # the message about the method comes later
        return list(keys.known_keys(Recipe))


def _build_recipe(table: dict[str, Any]) -> Recipe:
    _fill_evaluation(table.get("evaluation"))
    method = table.get("method")
    if isinstance(method, str):
        raise UserError(f"method is a table and has no value: write method.name={method}")
    if isinstance(method, dict):
        table["method"] = Recipe().method | method
        if not isinstance(table["method"]["name"], str):
            raise UserError(f"method.name must be text, not {table['method']['name']}")
    recipe: Recipe = _validated(Recipe, table, "", _all_keys(table.get("method")))
    recipe.build_method()
    _check_evaluation(recipe.evaluation)
    return recipe


def _check_evaluation(evaluation: Evaluation) -> None:
    try:
        parse_all(evaluation.strategy)
    except UserError as err:
        raise UserError(f"evaluation.strategy: {err}") from err
    n_answers = max(evaluation.n, evaluation.n_refine)
    for k in evaluation.k:
        if not 1 <= k <= n_answers:
            raise UserError(
                f"evaluation.k must be between 1 and the number of answers ({n_answers}), not {k}; raise evaluation.n or "
                "evaluation.n_refine"
            )


def _fill_evaluation(evaluation: Any) -> None:
    """Fill in what the table of an evaluation leaves out: no source of problems, unlike in training; temperature 0, and for
    refinements the sampling of drafts."""
    tables = evaluation if isinstance(evaluation, dict) else {}
    if isinstance(tables.get("problems"), dict):
        tables["problems"] = {"source": "", **tables["problems"]}
    base: dict[str, Any] = {"temperature": AnswerSettings().sampling.temperature}
    for name in ("sampling", "refine_sampling"):
        if isinstance(tables.get(name), dict):
            base = base | tables[name]
            tables[name] = base


def _validated(cls: type[Any], table: Mapping[str, Any], prefix: str, known: Sequence[str]) -> Any:
    message = keys.describe_unknown(cls, table, prefix, known) or values.describe_mismatch(cls, table, prefix)
    if message:
        raise UserError(message)
    try:
        return _validator(cls).validate_python(_merge_defaults(cls, table))
    except ValidationError as err:
        raise UserError(_describe(err.errors()[0], cls, prefix)) from err


_validators: dict[type[Any], TypeAdapter[Any]] = {}


def _validator(cls: type[Any]) -> TypeAdapter[Any]:
    """Return pydantic's checks of a section. They take far longer to make than to run, so they are kept."""
    if cls not in _validators:
        _validators[cls] = TypeAdapter(cls)
    return _validators[cls]


def _describe(error: Mapping[str, Any], cls: type[Any], prefix: str) -> str:
    """Return a message that names the key and the values that it may have."""
    key = prefix + ".".join(str(name) for name in values.location(cls, error["loc"]))
    key = key.rstrip(".")  # of a section
    bounds = error.get("ctx", {})
    if "gt" in bounds:
        return f"{key} must be above {bounds['gt']:g}, not {error['input']}"
    if "ge" in bounds:
        return f"{key} must be at least {bounds['ge']:g}, not {error['input']}"
    if "le" in bounds:
        return f"{key} must be at most {bounds['le']:g}, not {error['input']}"
    if "lt" in bounds:
        return f"{key} must be below {bounds['lt']:g}, not {error['input']}"
    if error["type"] == "finite_number":
        return f"{key} must be finite, not {error['input']}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] != "value_error":
        return f"{key} cannot be {values.shown(key, error['input'])}: {error['msg']}"
    # The section's own message. The value is not repeated, because it may be a secret.
    message = str(bounds["error"])
    return f"{key} {message}" if message.startswith("must ") else f"{key}: {message}"


def _merge_defaults(cls: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a section leaves out. A section's default in its parent may differ from the default of its class."""
    filled = dict(table)
    for f in dataclasses.fields(cls):
        given, default = table.get(f.name), default_of(f)
        if isinstance(given, Mapping) and dataclasses.is_dataclass(default) and not isinstance(default, type):
            filled[f.name] = dataclasses.asdict(default) | _merge_defaults(type(default), given)
    return filled


def _table(recipe: Recipe) -> dict[str, Any]:
    """Return all settings as tables, without those that are None, because TOML has no null."""
    table = dataclasses.asdict(recipe)
    table["method"] = {"name": recipe.method["name"], **dataclasses.asdict(recipe.build_method())}
    _drop_none(table)
    return table


def _difference(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs in `table` from `other`, in nested tables too."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        before = other.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _difference(value, before)
            if value:
                found[key] = value
        elif value != before:
            found[key] = value
    return found


def _drop_none(table: dict[str, Any]) -> None:
    """Remove keys that are None, because TOML has no null."""
    for key, value in list(table.items()):
        if value is None:
            del table[key]
        elif isinstance(value, dict):
            _drop_none(value)
