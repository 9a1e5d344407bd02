"""The times of the demo recipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import demos
from demos import ALONE, PREPARED, TEACHER, Row, commands, demo_table, main, read_rows
from rethink import recipes
from rethink.recipe import load_recipe

RECIPES = {TEACHER, *ALONE, *PREPARED}


def test_every_demo_recipe_of_a_method_is_measured() -> None:
    """Guards against a new recipe that nobody times. `rethink demo` itself runs two, and its option `--vision` others."""
    found: set[str] = set()
    for file in Path(recipes.__file__).parent.glob("demo-*.toml"):
        if not file.stem.startswith("demo-vision") and not file.stem.endswith(("-data", "-start")):
            found.add(file.stem)
    assert found - RECIPES == {"demo-grpo", "demo-think-twice"}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_commands_name_recipes(recipe: str) -> None:
    for arguments in commands(recipe):
        load_recipe(arguments[1], [])


def test_each_recipe_runs_once_and_rows_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against lost rows, a pupil before its teacher, and recipes that run again."""
    ran: list[list[str]] = []

    def run(line: list[str], **_: object) -> None:
        ran.append(line[3:])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(demos, "ALONE", ("demo-pag",))
    file = tmp_path / "demos.csv"
    monkeypatch.setattr(sys, "argv", ["demos.py", str(tmp_path / "out"), "--results", str(file)])
    main()
    assert ran[0] == ["train", TEACHER]
    assert ran[-1] == ["train", "demo-pag"]
    assert [row.recipe for row in read_rows(file)] == [TEACHER, *PREPARED, "demo-pag"]
    ran.clear()
    main()
    assert ran == []


def test_the_table_is_sorted() -> None:
    rows = [Row("demo-pag", 150.0, 2, "a processor"), Row("demo-score", 90.0, 2, "a processor")]
    assert demo_table(rows).split("\n")[2:] == ["| `demo-score` | 1.5 | 2 |", "| `demo-pag` | 2.5 | 2 |", ""]
