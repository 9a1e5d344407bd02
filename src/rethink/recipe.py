"""Recipes: defaults < recipe.toml < key=value. An unknown key is an error with a suggestion.

The sections are the dataclasses that the code itself uses, so that no default exists twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

import tomli_w
from pydantic import TypeAdapter, ValidationError

from rethink.errors import UserError
from rethink.methods import find_method
from rethink.prompts import PromptTexts
from rethink.settings import (
    Endpoint,
    Evaluation,
    Limits,
    Lora,
    ModelSource,
    Plan,
    ProblemSource,
    Processes,
    Role,
    Sampler,
    Training,
)
from rethink.strategies import parse_all
from rethink.types import Sampling


@dataclass(frozen=True)
class Recipe:
    """A whole experiment. `updates` counts updates (ThinkTwice makes two per problem batch), `n_problems` is the size of
    a problem batch; the run ends with the first batch that reaches `updates`. With `sample_ahead` the next batch is
    sampled while the last update of the present one trains; see `train.lookahead`."""

    out: str = "runs/run"
    seed: int = 0
    updates: int = 100
    n_problems: int = 32
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    n_logged_samples: int = 8
    sample_ahead: bool = False
    model: ModelSource = ModelSource()
    method: dict[str, Any] = field(default_factory=lambda: {"name": "think_twice"})
    problems: ProblemSource = ProblemSource()
    prompts: PromptTexts = PromptTexts()
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    sampler: Sampler = Sampler()
    training: Training = Training()
    lora: Lora = Lora()
    ranks: Processes = Processes()
    evaluation: Evaluation = Evaluation()
    endpoint: Endpoint = Endpoint()
    teacher: Role = Role()
    judge: Role = Role()

    def build_method(self) -> Any:
        """The method's dataclass with its hyper-parameters. Raises UserError for unknown ones."""
        settings = dict(self.method)
        cls = find_method(str(settings.pop("name", "")))
        return _validated(cls, settings, "method.")


def load_recipe(file: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe. Raises UserError for a missing file, bad TOML, unknown keys and values of a wrong type."""
    table: dict[str, Any] = {}
    if file is not None:
        try:
            table = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as err:
            raise UserError(f"cannot read the recipe {file}: {err.strerror}") from err
        except ValueError as err:  # bad TOML, or bytes that are not UTF-8
            raise UserError(f"{file} is not valid TOML: {err}") from err
    for override in overrides:
        _set(table, override)
    return _resolved(table)


def _resolved(table: dict[str, Any]) -> Recipe:
    _complete_sampling(table.get("evaluation"))
    if isinstance(table.get("method"), dict):
        table["method"] = Recipe().method | table["method"]
    recipe: Recipe = _validated(Recipe, table, "")
    recipe.build_method()
    _check(recipe)
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as a recipe file; every key is there, the method's included."""
    table = dataclasses.asdict(recipe)
    table["method"] = {"name": recipe.method["name"], **dataclasses.asdict(recipe.build_method())}
    return tomli_w.dumps(_without_none(table))


def completed(stored: str) -> str:
    """A resolved recipe as `to_toml` wrote it once, as it would write it today: keys that have come since then have their
    defaults, which is how runs went before them. Raises UserError for keys that are no more, whose meaning nobody knows."""
    try:
        return to_toml(_resolved(tomllib.loads(stored)))
    except (UserError, tomllib.TOMLDecodeError) as err:
        raise UserError(
            f"another version of rethink wrote it, or a hand changed it: {err}. Go on with that version, or begin anew"
        ) from err


def known_keys(cls: type[Any] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, with dots, the method's own left out."""
    for name, kind in _fields(cls).items():
        inner = _dataclass_in(kind)
        if inner is None:
            yield prefix + name
        else:
            yield from known_keys(inner, f"{prefix}{name}.")


POSITIVE = (
    *(
        "updates",
        "n_problems",
        "checkpoint_every",
        "keep_checkpoints",
        "evaluation.n",
        "evaluation.n_refine",
        "limits.max_prompt_tokens",
    ),
    *("sampler.gpu_memory", "sampler.concurrency", "sampler.timeout_s"),
    *("training.lr", "training.max_grad_norm", "lora.alpha"),
    *("training.chunk_tokens", "training.truncate", "evaluation.batch", "endpoint.concurrency", "endpoint.timeout_s"),
    "ranks.timeout_s",
)
NOT_NEGATIVE = (
    "limits.cache_gib",
    "n_logged_samples",
    "evaluation.every",
    "endpoint.retries",
    "lora.rank",
    "training.micro_batch_tokens",
    "training.n_warmup_updates",
    "training.weight_decay",
)


def _check(recipe: Recipe) -> None:
    for key in POSITIVE:
        if not attrgetter(key)(recipe) > 0:
            raise UserError(f"{key} must be above 0, not {attrgetter(key)(recipe)}")
    for key in NOT_NEGATIVE:
        if not attrgetter(key)(recipe) >= 0:
            raise UserError(f"{key} must not be negative, but it is {attrgetter(key)(recipe)}")
    try:
        parse_all(recipe.evaluation.strategy)
    except UserError as err:
        raise UserError(f"evaluation.strategy: {err}") from err
    most = max(recipe.evaluation.n, recipe.evaluation.n_refine)
    if not all(1 <= k <= most for k in recipe.evaluation.k):
        raise UserError(
            f"evaluation.k must lie between 1 and the number of answers ({most}); raise evaluation.n, or n_refine"
        )
    if recipe.endpoint.key_env and not recipe.endpoint.key_env.isidentifier():
        raise UserError("endpoint.key_env must be the name of an environment variable, not the key itself")
    for key in ("training.lr", "lora.alpha"):
        if math.isinf(attrgetter(key)(recipe)):
            raise UserError(f"{key} must be finite")
    if not all(0 <= beta < 1 for beta in recipe.training.betas):
        raise UserError(f"training.betas must lie in [0, 1), not be {list(recipe.training.betas)}")


def _complete_sampling(evaluation: Any) -> None:
    """What a table of sampling leaves out keeps its default, greedy; that of refinements is then as that of drafts."""
    tables = evaluation if isinstance(evaluation, dict) else {}
    base: dict[str, Any] = {"temperature": Plan().sampling.temperature}
    for name in ("sampling", "refine_sampling"):
        if isinstance(tables.get(name), dict):
            tables[name] = base = base | tables[name]


def _set(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not of the form key=value, for example training.lr=1e-5")
    *path, last = key.strip().split(".")
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{key}: {name} is a value, not a table")
    table[last] = _literal(text)


def _literal(text: str) -> Any:
    """A TOML value where the text is one, else the text itself (`out=runs/a` needs no quotes)."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _validated(cls: type[Any], table: Mapping[str, Any], prefix: str) -> Any:
    _refuse_unknown(cls, table, prefix)
    try:
        return TypeAdapter(cls).validate_python(_over_defaults(cls, table))
    except ValidationError as err:
        first = err.errors()[0]
        where = prefix + ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {first['msg']} (given: {first['input']!r})") from err


def _over_defaults(cls: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """What a section leaves out keeps the default of its place, which may be another than that of the section's class."""
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
            raise UserError(f"unknown key {prefix}{key}{_suggestion(key, kinds, prefix)}")
        inner = _dataclass_in(kinds[key])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{prefix}{key}.")


def _suggestion(key: str, kinds: Mapping[str, Any], prefix: str) -> str:
    elsewhere = [k for k in known_keys() if k.rsplit(".", 1)[-1] == key]
    near = [prefix + name for name in difflib.get_close_matches(key, kinds, n=1)]
    found = [*elsewhere, *near]
    return f"; did you mean {found[0]}?" if found else f"; known here: {', '.join(kinds)}"


def _fields(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _dataclass_in(kind: Any) -> type[Any] | None:
    """The dataclass that a type is, or that it is optionally."""
    for option in (kind, *getattr(kind, "__args__", ())):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}
