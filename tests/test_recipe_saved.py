"""Recipes that are saved, and load again as they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rethink import recipes
from rethink.recipe import load_recipe, to_toml
from support.recipe_texts import resolved, write

SHIPPED = sorted(recipes.FOLDER.glob("*.toml"))

ROUND_TRIPS = [
    [],
    ["method.name=grpo", "method.solve.n_steps=3", "evaluation.problems.split=test", "evaluation.n=5"],
    ["evaluation.refine_sampling.top_k=3", "evaluation.n=5", "evaluation.k=[1,5]", "endpoint.url=http://h:1/v1"],
    ['out="ä \\"quoted\\" \\\\ path"', 'prompts.refine="two\\nlines\\t\\u2028 and {question}"'],
    # A method that switches the dual clip off by default: its None was lost on the way.
    ["method.name=reflect_retry_reward", 'problems.replies.phases=["solve", "merge"]', "teacher.path=x"],
    ["training.betas=[0.5, 0.25]", 'problems.subsets=["x"]', "training.max_grad_norm=inf"],
    ["model.template_options.a.b=[1, 2]", "training.lr=1.2345678901234567e-7"],
]


@pytest.mark.parametrize("settings", ROUND_TRIPS)
def test_a_saved_recipe_loads_as_it_was(tmp_path: Path, settings: list[str]) -> None:
    """Guards against a config.toml that cannot repeat its run."""
    recipe = load_recipe(None, settings)
    again = load_recipe(write(tmp_path, to_toml(recipe)))
    assert resolved(again) == resolved(recipe)
    assert to_toml(again) == to_toml(recipe)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_shipped_recipe_parses_and_round_trips(tmp_path: Path, file: Path) -> None:
    """Guards against recipes that rot when a setting is renamed."""
    recipe = load_recipe(file.stem)
    assert dataclasses.is_dataclass(recipe.build_method())
    assert resolved(load_recipe(write(tmp_path, to_toml(recipe)))) == resolved(recipe)
