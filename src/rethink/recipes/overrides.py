"""Settings on the command line: "key=value"."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from rethink.errors import UserError
from rethink.recipes import other_libraries


def apply_overrides(overrides: Sequence[str], table: dict[str, Any], known: Sequence[str]) -> None:
    """Set each "key=value" in the table. Raise UserError for other words; `known` keys are what it suggests."""
    for i, override in enumerate(overrides):
        key, equals, text = override.partition("=")
        key = key.strip()
        is_torn = equals and not text and "=" not in "".join(overrides[i + 1 : i + 2])  # updates= 4
        if not equals or not key or key.startswith("-") or (is_torn and overrides[i + 1 : i + 2]):
            raise UserError(not_a_setting(overrides[i:], known))
        set_key(key.lstrip("+"), text, table)


def not_a_setting(words: Sequence[str], known: Sequence[str]) -> str:
    """Return a message about the first of these words, with the setting that it may stand for: `--updates 4`."""
    first = words[0]
    key, _, value = first.lstrip("-").partition("=")
    following = [word for word in words[1:3] if word != "="]
    if not value:
        value = following[0].lstrip("=") if following and "=" not in following[0].lstrip("=-") else "VALUE"
    name = guess_key(key.strip(), known)
    if not name:
        return f"{first!r} is not a setting; write key=value, for example training.lr=1e-5"
    return f"{first!r} is not a setting; write {name}={value}"


def guess_key(word: str, known: Sequence[str]) -> str:
    """Return the setting that a word such as "lr", "max-tokens" or "num_generations" stands for; "" if none does."""
    for name in (word, word.replace("-", "_")):
        if name in known:
            return name
    counterpart = other_libraries.find(word)
    if counterpart is not None:
        return counterpart.settings[0] if counterpart.settings else ""
    last = word.rpartition(".")[2].replace("-", "_").lower()
    for near in difflib.get_close_matches(last, [name.rpartition(".")[2] for name in known], n=1, cutoff=0.8):
        return next(name for name in known if name.rpartition(".")[2] == near)
    return ""


def set_key(key: str, text: str, table: dict[str, Any]) -> None:
    """Set a key such as "training.lr" or "rewards.0.weight" in the table."""
    *path, last = key.split(".")
    section: Any = table
    for name, after in zip(path, [*path[1:], last], strict=False):
        section = _subtable(section, name, [] if after.isdigit() else {}, key)
    if isinstance(section, list):  # rewards.0={function="own:bonus", weight=0.2}
        _subtable(section, last, {}, key)
        section[int(last)] = parse_value(text)
    else:
        section[last] = parse_value(text)


def parse_value(text: str) -> Any:
    """Return the text as a TOML value if it is one, else as a string, so `out=runs/a` needs no quotes."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError as err:
        if re.match(r"\{\s*[\w.-]+\s*=", text):  # no text: a table, whose quotes the shell has removed
            raise UserError(
                f"{text} is not valid TOML ({err}); texts need double quotes, and the whole setting single ones: "
                "'rewards.0={function=\"own:bonus\", weight=0.2}'"
            ) from err
        return text


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
