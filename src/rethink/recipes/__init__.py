"""The recipes that ship with the package; each states its expected result and the command that measured it."""

from __future__ import annotations

from pathlib import Path

from rethink.errors import UserError

FOLDER = Path(__file__).parent


def find(recipe: str) -> Path:
    """Return the file: a path, or the name of a shipped recipe ("demo-grpo"). Raise UserError where there is neither."""
    for file in (Path(recipe), FOLDER / f"{recipe}.toml"):
        if file.is_file():
            return file
    names = ", ".join(sorted(f.stem for f in FOLDER.glob("*.toml")))
    raise UserError(f"no recipe file {recipe}; shipped by name: {names}")
