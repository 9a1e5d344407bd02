"""Recipes: defaults, then a TOML file, then `key=value` settings; later ones win. An unknown key is an error.

The sections are the dataclasses that the code itself uses (`rethink.settings`), so no default is written twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import tomli_w
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from rethink import recipes
from rethink.errors import UserError
from rethink.methods import find_method
from rethink.prompts import PromptTexts
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
)
from rethink.strategies import parse_all
from rethink.types import Sampling


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run or an evaluation.

    - `out`: the run folder.
    - `seed`: the seed of all randomness.
    - `updates`: the number of updates after which the run ends, once the problem batch is finished. ThinkTwice makes two
      updates per problem batch.
    - `problems_per_batch`: the number of problems in a problem batch.
    - `checkpoint_every`: the number of updates between checkpoints.
    - `keep_checkpoints`: how many of the newest checkpoints are kept.
    - `n_logged_samples`: the number of samples per update that are written to samples.jsonl.
    - `one_step_off_policy`: sample the next problem batch while the last update of this one trains
      (`training.one_step_off_policy`).
    - `model`: the model to train or evaluate; see `ModelSource`.
    - `method`: the method's name and its settings (docs/methods/README.md).
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
    keep_checkpoints: PositiveInt = 2
    n_logged_samples: NonNegativeInt = 8
    one_step_off_policy: bool = False
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
        """Return the method with its settings. Raise UserError for an unknown method or setting."""
        settings = dict(self.method)
        cls = find_method(str(settings.pop("name", "")))
        return _validated(cls, settings, "method.")


def load_recipe(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe, with every setting checked and filled in: a file, one that ships with the package, or the defaults.

    `overrides` are settings as on the command line, "key=value". Raise UserError for a missing file, bad TOML, unknown
    keys, and values out of range.

    >>> import rethink
    >>> recipe = rethink.load_recipe("demo-think-twice", ["updates=4", "training.lr=1e-4"])
    >>> recipe.updates, recipe.training.lr, recipe.method["name"]
    (4, 0.0001, 'think_twice')
    """
    table: dict[str, Any] = {}
    if recipe is not None:
        file = recipes.find(str(recipe))
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as err:
            raise UserError(f"cannot read the recipe {file}: {err.strerror}") from err
        except ValueError as err:  # bad TOML, or bytes that are not UTF-8
            raise UserError(f"{file} is not valid TOML: {err}") from err
    if isinstance(overrides, str):
        raise UserError(f"overrides must be a list of settings, such as [{overrides!r}]")
    for override in overrides:
        _apply(override, table)
    return _build_recipe(table)


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML, with every key, including those of the method."""
    table = dataclasses.asdict(recipe)
    table["method"] = {"name": recipe.method["name"], **dataclasses.asdict(recipe.build_method())}
    _drop_none(table)
    return tomli_w.dumps(table)


def add_new_defaults(stored: str) -> str:
    """Return a saved recipe (TOML by `to_toml`) with all keys of this version: newer keys get their defaults.

    Raise UserError for keys that no longer exist.
    """
    try:
        return to_toml(_build_recipe(tomllib.loads(stored)))
    except (UserError, tomllib.TOMLDecodeError) as err:
        raise UserError(
            f"it was written by another version of rethink, or edited: {err}. Resume with that version or start a new run"
        ) from err


def known_keys(cls: type[Any] = Recipe, prefix: str = "") -> Iterator[str]:
    """Yield every key of a recipe as `section.key`, except the settings of methods."""
    for name, kind in _fields(cls).items():
        section = _section_type(kind)
        if section is None:
            yield prefix + name
        else:
            yield from known_keys(section, f"{prefix}{name}.")


def _build_recipe(table: dict[str, Any]) -> Recipe:
    _fill_sampling(table.get("evaluation"))
    if isinstance(table.get("method"), dict):
        table["method"] = Recipe().method | table["method"]
    recipe: Recipe = _validated(Recipe, table, "")
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


def _fill_sampling(evaluation: Any) -> None:
    """Fill in what a table of sampling settings leaves out: temperature 0, and for refinements the sampling of drafts."""
    tables = evaluation if isinstance(evaluation, dict) else {}
    base: dict[str, Any] = {"temperature": AnswerSettings().sampling.temperature}
    for name in ("sampling", "refine_sampling"):
        if isinstance(tables.get(name), dict):
            base = base | tables[name]
            tables[name] = base


def _apply(override: str, table: dict[str, Any]) -> None:
    """Set the key of "key=value" in the table."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not a setting; write key=value, for example training.lr=1e-5")
    *path, last = key.strip().split(".")
    section: Any = table
    for name, after in zip(path, [*path[1:], last], strict=False):
        section = _subtable(section, name, [] if after.isdigit() else {}, key)
    if isinstance(section, list):  # rewards.0={function="own:bonus", weight=0.2}
        _subtable(section, last, {}, key)
        section[int(last)] = _parse_value(text)
    else:
        section[last] = _parse_value(text)


def _subtable(section: Any, name: str, empty: Any, key: str) -> Any:
    """Return the table or list with this name; create it if it is missing. In a list, the name is an index."""
    if isinstance(section, list):
        if not name.isdigit() or int(name) > len(section):
            numbers = f"0 to {len(section)}" if section else "0"
            raise UserError(f"{key}: tables are numbered from 0; write {numbers} instead of {name!r}")
        if int(name) == len(section):
            section.append(empty)
        return section[int(name)]
    found = section.setdefault(name, empty)
    if not isinstance(found, dict | list):
        raise UserError(f"{key}: {name} is a value, not a table")
    return found


def _parse_value(text: str) -> Any:
    """Return the text as a TOML value if it is one, else as a string, so `out=runs/a` needs no quotes."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _validated(cls: type[Any], table: Mapping[str, Any], prefix: str) -> Any:
    _refuse_unknown(cls, table, prefix)
    try:
        return TypeAdapter(cls).validate_python(_merge_defaults(cls, table))
    except ValidationError as err:
        raise UserError(_describe(err.errors()[0], prefix)) from err


def _describe(error: Mapping[str, Any], prefix: str) -> str:
    """Return a message that names the key and the values that it may have."""
    key = prefix + ".".join(map(str, error["loc"]))
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
    if error["type"] != "value_error":
        return f"{key}: {error['msg']} (given: {error['input']!r})"
    # The section's own message. The value is not repeated, because it may be a secret.
    message = str(bounds["error"])
    return f"{key} {message}" if message.startswith("must ") else f"{key}: {message}"


def _merge_defaults(cls: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a section leaves out. A section's default in its parent may differ from the default of its class."""
    filled = dict(table)
    for f in dataclasses.fields(cls):
        given = table.get(f.name)
        if isinstance(given, Mapping) and dataclasses.is_dataclass(f.default) and not isinstance(f.default, type):
            filled[f.name] = dataclasses.asdict(f.default) | _merge_defaults(type(f.default), given)
    return filled


def _refuse_unknown(cls: type[Any], table: Mapping[str, Any], prefix: str) -> None:
    kinds = _fields(cls)
    for key, value in table.items():
        if key not in kinds:
            raise UserError(f"unknown key {prefix}{key}; {_suggestion(key, kinds, prefix)}")
        section = _section_type(kinds[key])
        if section is not None and isinstance(value, Mapping):
            _refuse_unknown(section, value, f"{prefix}{key}.")
        if section is not None and isinstance(value, list):
            for i, item in enumerate(value):
                _refuse_unknown(section, item if isinstance(item, Mapping) else {}, f"{prefix}{key}.{i}.")


def _suggestion(key: str, kinds: Mapping[str, Any], prefix: str) -> str:
    """Return a hint: the same key in another section, else a similar key in this one, else all keys of this one."""
    for known in known_keys():
        if known.rpartition(".")[2] == key:
            return f"did you mean {known}?"
    for near in difflib.get_close_matches(key, kinds, n=1):
        return f"did you mean {prefix}{near}?"
    return f"known keys: {', '.join(kinds)}"


def _fields(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _section_type(kind: Any) -> type[Any] | None:
    """Return the dataclass in a type such as `Section`, `Section | None` or `tuple[Section, ...]`; None without one."""
    for option in (kind, *getattr(kind, "__args__", ())):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _drop_none(table: dict[str, Any]) -> None:
    """Remove keys that are None, because TOML has no null."""
    for key, value in list(table.items()):
        if value is None:
            del table[key]
        elif isinstance(value, dict):
            _drop_none(value)
