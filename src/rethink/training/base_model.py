"""Where a model comes from: the run that made it, the model that its training began with, and that model's license."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import metadata_load, try_to_load_from_cache

from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.models import bundled, hub
from rethink.models.checkpoint_files import COUNTERS
from rethink.models.gguf.header import read_header
from rethink.models.gguf.locate import find_here, is_gguf
from rethink.models.lora import CONFIG as ADAPTER_CONFIG
from rethink.models.model_folder import read_object
from rethink.run_folder import RunFolder

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/.+|:\w+)?")
"""A name on the hub, or a GGUF file in a repository there."""

LICENSE_FIELDS = ("license", "license_name", "license_link")
LONGEST_CHAIN = 20
"""Runs that began with the model of another run, and so on, are followed so far."""


@dataclass(frozen=True)
class BaseModel:
    """The model that training began with: its name, the name for `base_model` in a card ("" if it is not known to be one
    on the hub), and the license fields of its card, empty if it has none on this machine.
    """

    name: str
    on_hub: str
    license: dict[str, str]


def run_of(model: Path) -> RunFolder | None:
    """Return the run that wrote this checkpoint; None for any other model."""
    run = RunFolder(model.parent.parent)
    return run if model.parent.name == run.checkpoints.name and (run.path / "config.toml").is_file() else None


def update_of(checkpoint: Path) -> int | None:
    """Return the number of updates of a run's checkpoint, also of a copy with another name; None if it is not known."""
    if checkpoint.name.isdigit():
        return int(checkpoint.name)
    try:
        return int(read_object(checkpoint / COUNTERS)["n_updates"])
    except (UserError, LookupError, TypeError, ValueError):
        return None


def read_settings(run: RunFolder) -> Record:
    """Return the settings of a run. Raise UserError if they cannot be read."""
    file = run.path / "config.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise UserError(f"cannot read {file}: {err}") from err


def find_base_model(model: Path) -> BaseModel:
    """Return the model that the training of this one began with, also if it began with the model of another run."""
    name = str(model)
    for _ in range(LONGEST_CHAIN):
        before = _trained_from(Path(name))
        if not before:
            break
        name = before
    return BaseModel(name, _hub_name(name), find_license(name))


def _trained_from(model: Path) -> str:
    """Return the model that a checkpoint or an adapter was trained from; "" for any other model."""
    run = run_of(model.resolve())
    if run is not None:
        return str(read_settings(run).get("model", {}).get("path", ""))
    config = model / ADAPTER_CONFIG
    return str(read_object(config).get("base_model_name_or_path", "")) if config.is_file() else ""


def _hub_name(name: str) -> str:
    """Return the repository of a model on the hub; "" for others, and for a name of which nothing is in the cache: it may
    be a folder of another machine.
    """
    found = None if Path(name).exists() else HUB_NAME.fullmatch(name)
    if found is None:
        return ""
    is_cached = find_here(name) if is_gguf(name) else hub.cached_folder(name)
    return found[1] if is_cached else ""


def find_license(name: str) -> dict[str, str]:
    """Return the license fields of a model's card, which is in its folder or in the hub's cache, or of a GGUF file's
    header; empty if there are none.
    """
    if name in bundled.MODELS or Path(name) in bundled.MODELS.values():
        return {"license": "apache-2.0"}  # this package's
    card = Path(name) / "README.md"
    repository = _hub_name(name)
    if is_gguf(name) and (repository or Path(name).is_file()):
        file = find_here(name)
        named = "" if file is None else read_header(file).metadata.get("general.license", "")
        if named:
            return {"license": str(named)}
    if not card.is_file():
        found = try_to_load_from_cache(repository, "README.md") if repository else None
        if not isinstance(found, str):
            return {}
        card = Path(found)
    try:
        fields = metadata_load(card) or {}
    except Exception:  # whatever the parser raises: a card that nobody can read states nothing
        return {}
    return {field: fields[field] for field in LICENSE_FIELDS if isinstance(fields.get(field), str)}
