"""The recipe of a run as it can be published: what shaped weights and answers, without addresses and machine paths."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

import tomli_w

from rethink.recipe import Recipe, changed_toml
from rethink.run_folder import CHANGEABLE

LEFT_OUT = (CHANGEABLE - {"updates"}) | {"model.device", "distributed"}
LEFT_OUT_ANYWHERE = {"url", "urls", "key_env"}
"""Settings of the machine that the run was on."""

OF_A_MACHINE = re.compile(r"/|~|\\\\|\.\.[/\\]|[A-Za-z]:[\\/]")
"""How paths begin that mean nothing on another machine, and that may tell names of this one."""


def shared_recipe(recipe: Recipe) -> str:
    """Return the settings that differ from their defaults as TOML. Of a path that begins at the root, the home folder or
    the parent folder, only the last part is left.
    """
    return tomli_w.dumps(_shared(tomllib.loads(changed_toml(recipe)), ""))


def last_part(path: str) -> str:
    """Return the last part of a path of this machine, and any other text unchanged.

    >>> last_part("/home/me/sums.jsonl"), last_part("data/sums.jsonl"), last_part("org/name")
    ('sums.jsonl', 'data/sums.jsonl', 'org/name')
    """
    if not OF_A_MACHINE.match(path):
        return path
    return PureWindowsPath(path).name if "\\" in path else PurePath(path).name


def _shared(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name in LEFT_OUT or key in LEFT_OUT_ANYWHERE:
            continue
        shared = value if name == "prompts" else _without_folders(value, f"{name}.")
        if shared != {}:
            found[key] = shared
    return found


def _without_folders(value: Any, prefix: str) -> Any:
    if isinstance(value, Mapping):
        return _shared(value, prefix)
    if isinstance(value, list):
        return [_without_folders(part, prefix) for part in value]
    if isinstance(value, str):  # may be several sources, with commas, and spaces after them
        return re.sub(r"[^\s,][^,]*", lambda source: last_part(source[0]), value)
    return value
