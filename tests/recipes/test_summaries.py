"""Summaries of the shipped recipes: what their headers and settings say."""

from __future__ import annotations

import pytest

from rethink.recipe import load_recipe
from rethink.recipes import shipped
from rethink.recipes.summaries import Summary, summarize, summarize_all
from support.recipe_headers import header
from support.shipped_recipes import FAMILY


def test_every_recipe_has_one() -> None:
    """Guards against a summary that disagrees with the recipe, and a header that begins without a purpose."""
    found = summarize_all()
    assert [one.name for one in found] == shipped()
    for one in found:
        assert 20 < len(one.purpose) < 500, one.name
        assert "rethink " not in one.purpose, one.name
        recipe = load_recipe(one.name)
        if one.method:
            assert (one.method, one.model) == (recipe.method["name"], recipe.model.path)
        else:
            assert recipe.evaluation.problems is not None


@pytest.mark.parametrize("recipe", sorted(FAMILY))
def test_hardware_and_hours_are_those_of_the_header(recipe: str) -> None:
    """Guards against a column that is empty although the header has it, or that is cut in a word."""
    text = " ".join(header(recipe).split())
    one = summarize(recipe)
    assert f"Hardware: {one.hardware} Hours: " in text
    assert one.hardware.endswith(".")
    assert one.time.replace(" hours", "", 1) in text
    assert one.short_hardware
    assert one.short_hardware.removeprefix("estimate: ") in one.hardware
    assert one.short_time == "not known" or one.short_time.endswith("hours (reported)")


def test_every_demo_says_how_long_it_takes() -> None:
    """Guards against a demo recipe without a time: only preparing data has none."""
    for one in summarize_all():
        if one.name.startswith("demo-") and not one.name.endswith("-data"):
            assert one.hardware == "two CPU cores", one.name
            assert one.time.endswith(("minute", "minutes")), one.name


@pytest.mark.parametrize(
    ("hardware", "short"),
    [
        ("two H100 80 GB (reported). Our estimate: 64 GB: one GPU.", "two H100 80 GB (reported)"),
        ("not stated. Our estimate: 9 GB for weights: four 80 GB GPUs. More is faster.", "estimate: four 80 GB GPUs"),
        ("not known for this model. Our estimate: 86 GiB, so eight GPUs.", "estimate: eight GPUs"),
        ("not known.", "not known"),
        ("", ""),
    ],
)
def test_the_reported_hardware_or_our_estimate(hardware: str, short: str) -> None:
    """Guards against a table that shows "not known" where the header has an estimate."""
    assert Summary("n", "p", "m", "m", hardware, "").short_hardware == short
