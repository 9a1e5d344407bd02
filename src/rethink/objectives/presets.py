"""Presets: objectives as their papers have them, by name. docs/losses.md says where they differ from the papers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rethink.errors import UserError
from rethink.objectives.objective import Objective
from rethink.settings import default_of

_TOKEN_CLIP = {"surrogate": "clip", "importance_sampling_level": "token", "dual_clip": math.inf, "clip_low": 0.2}

_OF_SURROGATES = (
    "surrogate",
    "clip_low",
    "clip_high",
    "dual_clip",
    "importance_sampling_level",
    "tau_pos",
    "tau_neg",
    "constant_length",
)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {**_TOKEN_CLIP, "clip_high": 0.2, "advantage": "standardize", "loss_aggregation": "sequence"},
    "dr_grpo": {**_TOKEN_CLIP, "clip_high": 0.2, "advantage": "center", "loss_aggregation": "constant"},
    "dapo": {
        **_TOKEN_CLIP,
        "clip_high": 0.28,
        "advantage": "standardize",
        "loss_aggregation": "token",
        "zero_std_groups": "drop",
    },
    "gspo": {
        "surrogate": "clip",
        "importance_sampling_level": "sequence",
        "dual_clip": math.inf,
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "advantage": "standardize",
        "loss_aggregation": "sequence",
    },
    "gmpo": {
        "surrogate": "gmpo",
        "clip_low": 0.4,
        "clip_high": 0.4,
        "advantage": "standardize",
        "loss_aggregation": "sequence",
    },
    "cispo": {
        "surrogate": "cispo",
        "clip_low": 1.0,
        "clip_high": 4.0,
        "advantage": "standardize",
        "loss_aggregation": "token",
    },
    "sapo": {
        "surrogate": "sapo",
        "tau_pos": 1.0,
        "tau_neg": 1.05,
        "advantage": "standardize",
        "loss_aggregation": "sequence",
    },
    "rloo": {**_TOKEN_CLIP, "clip_high": 0.2, "advantage": "rloo", "loss_aggregation": "constant"},
}
"""The settings of `Objective` that each preset replaces. All others stay: KL, number of steps, truncated replies."""


def with_preset(name: Any, method: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a method, with those of a preset in each of its objectives. Settings that are given win.

    Raise UserError for an unknown preset, and for a method without objectives."""
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"method.objective is a name, one of {', '.join(PRESETS)}, and not {name!r}")
    defaults = {f.name: default_of(f) for f in fields(method)}
    bases = {key: default for key, default in defaults.items() if isinstance(default, Objective)}
    if not bases:
        raise UserError(f'method.objective = "{name}" has no effect: {method.__name__} has no policy gradient')
    found = dict(settings)
    for key, base in bases.items():
        given = found.get(key, {})
        if isinstance(given, Mapping):  # anything else is refused later
            found[key] = {**_replaced(name, base), **given}
    return found


def forget_replaced(name: Any, settings: Mapping[str, Any]) -> None:
    """Remove from the settings of a method, a table of tables, what a preset replaces, and the surrogate's settings.

    So a preset on the command line wins over the objectives of a recipe file, or of a run folder, which has every value.
    Pass@k advantages stay."""
    if not isinstance(name, str) or name not in PRESETS:
        return  # refused later
    known = {f.name for f in fields(Objective)}
    for section in settings.values():
        if isinstance(section, dict) and known.issuperset(section):
            for key in {*PRESETS[name], *_OF_SURROGATES}:
                if section.get(key) != "pass_at_k":
                    section.pop(key, None)


def preset(name: str, base: Objective | None = None) -> Objective:
    """Return an objective with the settings of a preset, and otherwise those of `base`.

    >>> preset("gspo").clip_high
    0.0004
    """
    base = base or Objective()
    return replace(base, **_replaced(name, base))


def _replaced(name: str, base: Objective) -> dict[str, Any]:
    """Return the settings that a preset replaces in an objective. Pass@k advantages stay: the method needs them."""
    found = dict(PRESETS[name])
    if base.advantage == "pass_at_k":
        del found["advantage"]
    return found
