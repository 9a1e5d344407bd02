"""Recipes: defaults < recipe.toml < key=value. An unknown key is an error with a suggestion.

The sections are the dataclasses that the code itself uses (`rethink.settings`), so that no default exists twice.
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
    """A whole experiment. `updates` counts updates (ThinkTwice makes two per problem batch), `problems_per_batch` is the
    size of a problem batch; the run ends with the first batch that reaches `updates`. With `one_step_off_policy` the next
    batch is sampled while the last update of the present one trains; see `training.one_step_off_policy`. Without `rewards`
    the reward is the verdict; docs/rewards.md."""

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
        """Return the method's dataclass with its hyper-parameters. Raise UserError for unknown ones."""
        settings = dict(self.method)
        cls = find_method(str(settings.pop("name", "")))
        return _validated(cls, settings, "method.")


def load_recipe(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe: the defaults, then a file or a shipped recipe by its name, then `overrides` ("key=value").

    Raise UserError for a missing file, bad TOML, an unknown key and a value that is not allowed.

    >>> recipe = load_recipe("demo-grpo", ["updates=8", "training.lr=1e-4"])
    >>> recipe.updates, recipe.training.lr, recipe.sampling.max_tokens
    (8, 0.0001, 24)
    >>> load_recipe("demo-grpo", ["training.lrr=1e-4"])
    Traceback (most recent call last):
    rethink.errors.UserError: unknown key training.lrr; did you mean training.lr?
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
    for override in overrides:
        _set(table, override)
    return _resolved(table)


def to_toml(recipe: Recipe) -> str:
    """Return the resolved recipe as a recipe file; every key is there, the method's included."""
    table = dataclasses.asdict(recipe)
    table["method"] = {"name": recipe.method["name"], **dataclasses.asdict(recipe.build_method())}
    _drop_none(table)
    return tomli_w.dumps(table)


def completed(stored: str) -> str:
    """Return a resolved recipe that `to_toml` wrote, as it would write it today: newer keys get their defaults, which is
    how runs went before them. Raise UserError for keys that no longer exist."""
    try:
        return to_toml(_resolved(tomllib.loads(stored)))
    except (UserError, tomllib.TOMLDecodeError) as err:
        raise UserError(
            f"it was written by another version of rethink, or edited: {err}. Resume with that version or start a new run"
        ) from err


def known_keys(cls: type[Any] = Recipe, prefix: str = "") -> Iterator[str]:
    """Yield every key of a recipe, with dots, without the method's own."""
    for name, kind in _fields(cls).items():
        section = _section_in(kind)
        if section is None:
            yield prefix + name
        else:
            yield from known_keys(section, f"{prefix}{name}.")


def _resolved(table: dict[str, Any]) -> Recipe:
    _complete_sampling(table.get("evaluation"))
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
    most = max(evaluation.n, evaluation.n_refine)
    for k in evaluation.k:
        if not 1 <= k <= most:
            raise UserError(
                f"evaluation.k must lie between 1 and the number of answers ({most}); raise evaluation.n, or n_refine"
            )


def _complete_sampling(evaluation: Any) -> None:
    """Let a table of sampling keep the default, greedy, where it says nothing; that of refinements is as that of drafts."""
    tables = evaluation if isinstance(evaluation, dict) else {}
    base: dict[str, Any] = {"temperature": AnswerSettings().sampling.temperature}
    for name in ("sampling", "refine_sampling"):
        if isinstance(tables.get(name), dict):
            base = base | tables[name]
            tables[name] = base


def _set(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not of the form key=value, for example training.lr=1e-5")
    *path, last = key.strip().split(".")
    section: Any = table
    for name, after in zip(path, [*path[1:], last], strict=False):
        section = _inner(section, name, [] if after.isdigit() else {}, key)
    if isinstance(section, list):  # rewards.0={function="own:bonus", weight=0.2}
        _inner(section, last, {}, key)
        section[int(last)] = _literal(text)
    else:
        section[last] = _literal(text)


def _inner(section: Any, name: str, empty: Any, key: str) -> Any:
    """Return the table or list of that name, made if there is none; in a list, that of the number, or one more."""
    if isinstance(section, list):
        if not name.isdigit() or int(name) > len(section):
            numbers = f"0 to {len(section)}" if section else "0"
            raise UserError(f"{key}: tables are numbered from 0: write {numbers} in place of {name!r}")
        if int(name) == len(section):
            section.append(empty)
        return section[int(name)]
    found = section.setdefault(name, empty)
    if not isinstance(found, dict | list):
        raise UserError(f"{key}: {name} is a value, not a table")
    return found


def _literal(text: str) -> Any:
    """Return a TOML value where the text is one, else the text itself (`out=runs/a` needs no quotes)."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _validated(cls: type[Any], table: Mapping[str, Any], prefix: str) -> Any:
    _refuse_unknown(cls, table, prefix)
    try:
        return TypeAdapter(cls).validate_python(_over_defaults(cls, table))
    except ValidationError as err:
        raise UserError(_message(err.errors()[0], prefix)) from err


def _message(error: Mapping[str, Any], prefix: str) -> str:
    """Say which key may not have its value, and what it must be."""
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
    # A section's own words; what was given is not repeated, as it may be a secret.
    words = str(bounds["error"])
    return f"{key} {words}" if words.startswith("must ") else f"{key}: {words}"


def _over_defaults(cls: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what a section leaves out with the default of its place, which may differ from that of the section's class."""
    filled = dict(table)
    for f in dataclasses.fields(cls):
        given = table.get(f.name)
        if isinstance(given, Mapping) and dataclasses.is_dataclass(f.default) and not isinstance(f.default, type):
            filled[f.name] = dataclasses.asdict(f.default) | _over_defaults(type(f.default), given)
    return filled


def _refuse_unknown(cls: type[Any], table: Mapping[str, Any], prefix: str) -> None:
    kinds = _fields(cls)
    for key, value in table.items():
        if key not in kinds:
            raise UserError(f"unknown key {prefix}{key}; {_suggestion(key, kinds, prefix)}")
        section = _section_in(kinds[key])
        if section is not None and isinstance(value, Mapping):
            _refuse_unknown(section, value, f"{prefix}{key}.")
        if section is not None and isinstance(value, list):
            for i, one in enumerate(value):
                _refuse_unknown(section, one if isinstance(one, Mapping) else {}, f"{prefix}{key}.{i}.")


def _suggestion(key: str, kinds: Mapping[str, Any], prefix: str) -> str:
    """Name the same key of another section, else a similar one of this section, else all there are."""
    for known in known_keys():
        if known.rpartition(".")[2] == key:
            return f"did you mean {known}?"
    for near in difflib.get_close_matches(key, kinds, n=1):
        return f"did you mean {prefix}{near}?"
    return f"known here: {', '.join(kinds)}"


def _fields(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _section_in(kind: Any) -> type[Any] | None:
    """Return the dataclass that a type is, or that it is optionally."""
    for option in (kind, *getattr(kind, "__args__", ())):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _drop_none(table: dict[str, Any]) -> None:
    """Remove the keys without a value: TOML has none for them."""
    for key, value in list(table.items()):
        if value is None:
            del table[key]
        elif isinstance(value, dict):
            _drop_none(value)
