"""The types of values in a recipe, in plain words.

pydantic checks bounds; its types are too lenient here (it takes "yes" for true, and true for 1), and its messages speak of
Python.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rethink.recipes.keys import fields_of, section_type

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "left out",
    dict: "a table of keys and values",
}
NOTHING = ("none", "null", "nil", "~")
"""How other formats write "no value"."""


def describe_mismatch(cls: type[Any], table: Mapping[str, Any], prefix: str = "") -> str:
    """Return a message about the first value in a section's table that has the wrong type; "" if there is none."""
    kinds = fields_of(cls)
    for key, value in table.items():
        message = _mismatch(kinds[key], value, f"{prefix}{key}") if key in kinds else ""
        if message:
            return message
    return ""


def shown(key: str, value: Any) -> str:
    """Return a value as a recipe writes it. Secrets are not repeated."""
    if "key" in key.rpartition(".")[2]:
        return "the given value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return "a table" if isinstance(value, Mapping) else str(value)


def type_in_words(kind: Any) -> str:
    """Return what values of this type look like, for people.

    >>> type_in_words(int | None)
    'a whole number'
    """
    kind = _bare(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_words(_bare(option)) for option in get_args(kind) if option is not type(None))
    return _words(kind)


def location(cls: type[Any], names: Sequence[str | int]) -> list[str | int]:
    """Return the keys and list indices among the names that pydantic gives as an error's location."""
    found: list[str | int] = []
    inside: type[Any] | None = cls
    for name in names:
        kinds = fields_of(inside) if inside is not None else {}
        if isinstance(name, str) and name in kinds:
            inside = section_type(kinds[name])
            found.append(name)
        elif isinstance(name, int):
            found.append(name)
    return found


def _mismatch(kind: Any, value: Any, key: str) -> str:
    kind = _bare(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _section_mismatch(kind, value, key)
    if get_origin(kind) in (Union, types.UnionType):
        return _union_mismatch(get_args(kind), value, key)
    if get_origin(kind) is tuple:
        return _list_mismatch(kind, value, key)
    if get_origin(kind) is Literal:
        if value in get_args(kind) and isinstance(value, str):
            return ""
    elif _fits(kind, value):
        return ""
    hint = ""
    if isinstance(value, str) and value.strip().lower() in NOTHING:
        hint = "; to use the default, leave the key out"
    return f"{key} must be {_words(kind)}, not {shown(key, value)}{hint}"


def _section_mismatch(cls: type[Any], value: Any, key: str) -> str:
    if isinstance(value, Mapping):
        return describe_mismatch(cls, value, f"{key}.")
    if dataclasses.is_dataclass(value):
        return ""
    first = next(iter(fields_of(cls)))
    example = f"{key}.{first}={shown(first, value)}" if isinstance(value, str) else f"{key}.{first}=..."
    return f"{key} is a table and has no value: write {example}"


def _union_mismatch(options: Sequence[Any], value: Any, key: str) -> str:
    messages = [_mismatch(option, value, key) for option in options]
    if "" in messages:
        return ""
    for option, message in zip(options, messages, strict=True):
        if isinstance(value, Mapping) and dataclasses.is_dataclass(_bare(option)):
            return message
    words = [_words(_bare(option)) for option in options if option is not type(None)]
    return f"{key} must be {' or '.join(words)}, not {shown(key, value)}"


def _list_mismatch(kind: Any, value: Any, key: str) -> str:
    inner = get_args(kind)
    repeated = len(inner) == 2 and inner[1] is Ellipsis
    if isinstance(value, str) or not isinstance(value, Sequence):
        section = section_type(inner[0])
        if section is not None:
            return (
                f"{key} is a list of tables: write {key}.0.{next(iter(fields_of(section)))}=..., or [[{key}]] in a file"
            )
        example = f"; write [{shown(key, value)}]" if repeated and isinstance(value, str | int | float) else ""
        return f"{key} must be a list, not {shown(key, value)}{example}"
    if not repeated and len(value) != len(inner):
        return f"{key} must be a list of {len(inner)} values, not {len(value)}"
    for i, item in enumerate(value):
        message = _mismatch(inner[0] if repeated else inner[i], item, f"{key}.{i}")
        if message:
            return message
    return ""


def _fits(kind: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind is float:
        return isinstance(value, int | float)
    if _is_table(kind):
        return isinstance(value, Mapping)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        *first, last = (f'"{option}"' for option in get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) is tuple:
        return "a list"
    if dataclasses.is_dataclass(kind) or _is_table(kind):
        return WORDS[dict]
    return WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _is_table(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and issubclass(plain, Mapping)


def _bare(kind: Any) -> Any:
    """Return a type without its bounds."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind
