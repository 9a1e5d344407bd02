"""Recipes as files, what is said about wrong ones, and what they come to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.recipe import Recipe, load_recipe


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refused(*settings: str, file: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(file, settings)
    return str(caught.value)


def resolved(recipe: Recipe) -> tuple[Recipe, object]:
    """A recipe with its method built, for comparison: the table may leave out what has a default."""
    return dataclasses.replace(recipe, method={}), recipe.build_method()
