"""Recipes as files, the messages about wrong ones, and recipes in a form to compare."""

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
    """Return the message of the error that these settings raise."""
    with pytest.raises(UserError) as caught:
        load_recipe(file, settings)
    return str(caught.value)


def resolved(recipe: Recipe) -> tuple[Recipe, object]:
    """Return the recipe without its method table, which may leave out defaults, and the method that it builds."""
    return dataclasses.replace(recipe, method={}), recipe.build_method()
