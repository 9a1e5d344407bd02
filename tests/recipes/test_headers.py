"""Headers of the shipped recipes: what they state, and that their commands are valid."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from rethink import cli, recipes
from rethink.commands.arguments.options import split_settings
from rethink.commands.evaluate import resolve
from rethink.problems import source
from rethink.recipe import load_recipe
from rethink.strategies import parse_all
from rethink.training.no_effect import doubtful_settings
from support.recipe_headers import header
from support.shipped_recipes import DATA_RECIPES, FAMILY, PROTOCOL_RECIPES


def commands_in(recipe: str) -> list[list[str]]:
    """The words of each command in a header."""
    found = re.findall(r"^ +(?:[A-Z]\w+: +)?((?:rethink|torchrun) .*)$", header(recipe), re.MULTILINE)
    return [shlex.split(command) for command in found]


def test_every_recipe_of_real_size_is_tested() -> None:
    """Guards against a recipe that is added and never run; those of the tiny model have other tests."""
    shipped = {f.stem for f in recipes.FOLDER.glob("*.toml") if not f.stem.startswith(("demo-", "warm-start"))}
    assert shipped == {*FAMILY, *DATA_RECIPES, *PROTOCOL_RECIPES}


@pytest.mark.parametrize("recipe", sorted(FAMILY))
def test_a_header_states_hardware_hours_results_and_commands(recipe: str) -> None:
    """Guards against headers without these, and numbers that do not say whether we measured them."""
    text = header(recipe)
    for label in ("Train", "Evaluate", "Hardware", "Hours", "Expected"):
        assert f"\n {label}: " in text
    assert "Not measured by this project." in " ".join(text.split())
    commands = commands_in(recipe)
    assert {"train", "eval"} <= {command[1] for command in commands if command[0] == "rethink"}
    on_ranks = [command[3:] for command in commands if command[0] == "torchrun"]
    assert on_ranks == [["-m", "rethink", "train", recipe]]


@pytest.mark.parametrize("recipe", sorted(FAMILY))
def test_a_recipe_starts_without_warnings(recipe: str) -> None:
    """Regression: TON's recipes warned at once, because their evaluation cut replies earlier than training."""
    assert list(doubtful_settings(load_recipe(recipe))) == []


@pytest.mark.parametrize("recipe", sorted([*FAMILY, *DATA_RECIPES, *PROTOCOL_RECIPES]))
def test_a_header_names_its_source_and_every_difference(recipe: str) -> None:
    """Guards against recipes that differ from their release without saying so; the prompts differ in all of them."""
    text = " ".join(header(recipe).split())
    of_release = re.search(r"Source: [\w-]+/[\w-]+, commit [0-9a-f]{7}, .*Differences from the release", text)
    of_paper = re.search(
        r"code is not released.* Differences from the paper|the paper, whose code is not released", text
    )
    assert of_release or of_paper
    assert "in our own words" in text.partition("Differences from")[2]


@pytest.mark.parametrize("recipe", sorted([*FAMILY, *DATA_RECIPES, *PROTOCOL_RECIPES]))
def test_the_commands_of_a_header_are_valid(recipe: str) -> None:
    """Guards against commands with an option, setting, strategy, suite or checkpoint that does not exist."""
    app = typer.main.get_command(cli.app)
    for program, *rest in commands_in(recipe):
        name, *words = rest if program == "rethink" else rest[4:]
        given = app.commands[name].make_context(name, list(words)).params  # type: ignore[attr-defined]
        if name == "cross":
            continue
        suites, settings = split_settings(given.get("on"), given["settings"])
        resolved = load_recipe(given["recipe"], settings)
        if name == "eval":
            # The checkpoint does not exist yet, so any model will do.
            plan = resolve("tiny", suites, settings, given["recipe"]).evaluation
            assert plan.problems is not None
            source.answer_format_of(plan.problems)
            assert parse_all(given["strategy"] or plan.strategy)
            run = re.fullmatch(r"runs/(.+)/checkpoints/(\d+)", given["model"])
            assert run is None or int(run[2]) == load_recipe(run[1]).updates
        if name == "prepare":
            (user,) = (r for r in FAMILY if load_recipe(r).problems.source == str(given["out"]))
            assert load_recipe(user).model.path == resolved.model.path
