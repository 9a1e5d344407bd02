"""The recipes that ship with the package; each states its expected result and the command that measured it."""

from __future__ import annotations

import difflib
from pathlib import Path

from rethink.errors import UserError

FOLDER = Path(__file__).parent


def find(recipe: str) -> Path:
    """Return the file of a recipe: a path, or the name of a shipped one ("demo-grpo"). Raise UserError if there is none."""
    for file in (Path(recipe), FOLDER / f"{recipe}.toml"):
        if file.is_file():
            return file
    names = sorted(f.stem for f in FOLDER.glob("*.toml"))
    for near in difflib.get_close_matches(recipe, names, n=1):
        raise UserError(f"there is no recipe {recipe}; did you mean {near}?")
    raise UserError(f"there is no recipe file {recipe}; recipes of the package: {', '.join(names)}")
