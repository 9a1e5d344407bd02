"""The comments at the top of the shipped recipes."""

from __future__ import annotations

import itertools

from rethink import recipes


def header(recipe: str) -> str:
    """Return the comment at the top of the recipe, without its number signs."""
    lines = recipes.find(recipe).read_text().splitlines()
    return "\n".join(line.removeprefix("#") for line in itertools.takewhile(lambda x: x.startswith("#"), lines))
