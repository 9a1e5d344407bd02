"""Which commands make the data and models that shipped recipes read. The comments at the beginning of recipes list them."""

from __future__ import annotations

import re
import tomllib
from functools import cache

from rethink.recipes import FOLDER

_COMMAND = re.compile(r"# (?:[A-Z][a-z ]*:)? *((?:rethink (?:train|prepare)|python -m rethink\.\S+) .*?)(?:  .*)?")
"""A command in a line of such a comment, without a label before it and a remark after it."""


def commands_that_make(path: str) -> list[str]:
    """Return the commands that make a file or model that shipped recipes read, in order; none for any other path.

    >>> commands_that_make("runs/demo-gsr.parquet")[-1]
    'rethink prepare demo-gsr-data --out runs/demo-gsr.parquet'
    """
    makers: set[str] = set()
    for name, _, run in _shipped():
        if f"{path}/".startswith(f"{run}/"):
            makers.add(f"rethink train {name}")
    longest: list[str] = []
    for _, text, _ in _shipped():
        commands: list[str] = []
        for line in text.partition("\n\n")[0].splitlines():
            found = _COMMAND.fullmatch(line)
            if found is None:
                continue
            commands.append(found[1])
            if found[1] in makers or path in found[1].split():
                longest = commands if len(commands) > len(longest) else longest
                break
    return longest


@cache
def _shipped() -> list[tuple[str, str, str]]:
    """Return name, text and run folder of each shipped recipe. They are read once: a run asks about several paths."""
    found: list[tuple[str, str, str]] = []
    for file in sorted(FOLDER.glob("*.toml")):
        text = file.read_text(encoding="utf-8")
        found.append((file.stem, text, str(tomllib.loads(text).get("out"))))
    return found
