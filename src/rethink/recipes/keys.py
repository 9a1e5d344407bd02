"""The keys of recipes, and messages about unknown ones."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_type_hints

from rethink.recipes import other_libraries

SHOWN = 5
"""The number of unknown keys that a message names."""


_types_of: dict[type[Any], Mapping[str, Any]] = {}
"""What `fields_of` has returned: evaluating annotations takes most of the time in which a recipe is read."""

_keys_of: dict[tuple[type[Any], str], tuple[str, ...]] = {}
"""What `known_keys` has returned; a recipe is read with all of them at hand, for suggestions."""


def fields_of(cls: type[Any]) -> Mapping[str, Any]:
    """Return the types of a section's keys."""
    if cls not in _types_of:
        hints = get_type_hints(cls, include_extras=True)
        _types_of[cls] = MappingProxyType({f.name: hints[f.name] for f in dataclasses.fields(cls)})
    return _types_of[cls]


def section_type(kind: Any) -> type[Any] | None:
    """Return the dataclass in a type such as `Section`, `Section | None` or `tuple[Section, ...]`; None without one."""
    for option in (kind, *getattr(kind, "__args__", ())):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def known_keys(cls: type[Any], prefix: str = "") -> tuple[str, ...]:
    """Return every key of a section as `section.key`."""
    if (cls, prefix) not in _keys_of:
        found: list[str] = []
        for name, kind in fields_of(cls).items():
            section = section_type(kind)
            found += [prefix + name] if section is None else known_keys(section, f"{prefix}{name}.")
        _keys_of[cls, prefix] = tuple(found)
    return _keys_of[cls, prefix]


def describe_unknown(cls: type[Any], table: Mapping[str, Any], prefix: str, known: Sequence[str]) -> str:
    """Return a message about the unknown keys in a table of this section, with suggestions; "" if all are known.

    `known` are all keys of a recipe, which the suggestions are taken from."""
    found = list(_unknown(cls, table, prefix, known))
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _unknown(cls: type[Any], table: Mapping[str, Any], prefix: str, known: Sequence[str]) -> Iterator[str]:
    kinds = fields_of(cls)
    for key, value in table.items():
        path = f"{prefix}{key}"
        if key not in kinds:
            yield from _describe(path, value, list(kinds), known)
            continue
        section = section_type(kinds[key])
        if section is not None and isinstance(value, Mapping):
            yield from _unknown(section, value, f"{path}.", known)
        if section is not None and isinstance(value, list):
            for i, item in enumerate(value):
                yield from _unknown(section, item if isinstance(item, Mapping) else {}, f"{path}.{i}.", known)


def _describe(path: str, value: Any, siblings: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """Yield a message about an unknown key, or one about each key of another library in its table."""
    messages = []
    for leaf in _leaves(path, value):
        counterpart = other_libraries.find(leaf)
        if counterpart is not None:
            messages.append(f"unknown key {leaf}; {counterpart}")
    yield from messages or [f"unknown key {path}; {suggestion(path, siblings, known)}"]


def _leaves(path: str, value: Any) -> Iterator[str]:
    """Yield the paths of the values in a table."""
    if not isinstance(value, Mapping):
        yield path
        return
    for key, inner in value.items():
        yield from _leaves(f"{path}.{key}", inner)


def suggestion(path: str, siblings: Sequence[str], known: Sequence[str]) -> str:
    """Return what to write instead of an unknown key.

    The order is: keys of the same table with a similar name, the same name in another section, and all keys of the table.
    """
    prefix, _, key = path.rpartition(".")
    prefix = f"{prefix}." if prefix else ""
    longer = [name for name in siblings if name.startswith(f"{key}_")]
    near = difflib.get_close_matches(key.lower(), siblings, n=1, cutoff=0.8) or longer
    elsewhere = _elsewhere(key.lower(), prefix, known)
    if not near and elsewhere:
        return f"did you mean {elsewhere}?"
    near = near or difflib.get_close_matches(key.lower(), siblings, n=1)
    if near:
        return f"did you mean {' or '.join(prefix + name for name in near)}?"
    return f"known keys: {', '.join(siblings)}"


def _elsewhere(key: str, prefix: str, known: Sequence[str]) -> str:
    """Return the setting of this name in another section, first in one below this section; "" if there is none.

    With a setting of training, name that of evaluation, too."""
    same = [name for name in known if name.rpartition(".")[2] == key]
    for name in same:
        if prefix and name.startswith(prefix):
            return name
    both = [name for name in (same[:1] and [same[0], f"evaluation.{same[0]}"]) if name in known]
    return " or ".join(both)
