"""`rethink recipes`: the list, its filter, and one recipe."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from rethink.recipe import load_recipe
from rethink.recipes import shipped
from support.command_line import Rethink, assert_one_message


def names(shown: str) -> list[str]:
    header, *lines = shown.splitlines()
    assert header.split() == ["recipe", "method", "model", "time", "hardware"]
    return [line.split()[0] for line in lines]


def test_the_list_has_every_recipe(rethink: Rethink) -> None:
    """Guards against a recipe that nobody finds, and notes in what a program may read."""
    found = rethink("recipes")
    assert found.code == 0
    assert names(found.out) == shipped()
    assert "rethink recipes NAME" in found.err
    (line,) = (line for line in found.out.splitlines() if line.startswith("thinktwice-qwen3-4b "))
    expected = "think_twice Qwen/Qwen3-4B-Instruct-2507 9.4 hours (reported) two H100 80 GB (reported)"
    assert line.split()[1:] == expected.split()


def test_words_filter_the_list(rethink: Rethink) -> None:
    """Guards against words of which one is enough, and a filter of names alone."""
    found = names(rethink("recipes", "qwen3-4B", "Grpo").out)
    assert found == ["dapo-qwen3-4b", "drgrpo-qwen3-4b", "grpo-qwen3-4b"]  # DAPO's method is grpo
    assert "thinktuning-llama3.2-3b" in names(rethink("recipes", "meta-llama").out)
    assert_one_message(
        rethink("recipes", "qwen", "olmo"),
        "no recipe's name, purpose, method, model or hardware contains qwen and olmo",
    )
    assert_one_message(rethink("recipes", "demo-grop"), "did you mean demo-grpo?")


def test_one_recipe_is_printed_as_it_is(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a copy that is another recipe: markup or long lines would be changed by a terminal's library."""
    for name in shipped():
        (tmp_path / "copy.toml").write_text(rethink("recipes", name).out)
        assert load_recipe(tmp_path / "copy.toml") == load_recipe(name)


def test_json(rethink: Rethink) -> None:
    """Guards against a document that lacks what the table shows, or a file that does not exist."""
    found = json.loads(rethink("recipes", "--json").out)["recipes"]
    assert [one["name"] for one in found] == shipped()
    assert all(Path(one["file"]).is_file() for one in found)
    (one,) = json.loads(rethink("recipes", "demo-grpo", "--json").out)["recipes"]
    assert tomllib.loads(one["text"])["method"]["name"] == one["method"] == "grpo"
    assert (one["hardware"], one["time"]) == ("two CPU cores", "about a minute")
