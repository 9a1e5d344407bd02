"""The commands that make what shipped recipes read, from the comments at the beginning of recipes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from rethink import recipes
from rethink.build import check_inputs
from rethink.errors import UserError
from rethink.recipe import load_recipe
from rethink.recipes.made_by import commands_that_make
from support.command_line import assert_one_message, in_process

TEACHER = "rethink train demo-grpo-signs"
MADE_BY = {
    "runs/demo-gsr.parquet": [TEACHER, "rethink prepare demo-gsr-data --out runs/demo-gsr.parquet"],
    "runs/demo-ton.parquet": ["rethink prepare demo-ton-data --out runs/demo-ton.parquet"],
    "runs/demo-ton-start": [
        "rethink prepare demo-ton-data --out runs/demo-ton.parquet", "rethink train demo-ton-start"
    ],
    "runs/demo-grpo-signs": [TEACHER],
    "runs/demo-grpo-signs/checkpoints/000160": [TEACHER],
    # Two commands make it; the second one, for a trial, is not needed.
    "runs/gsr-qwen2.5-7b.parquet": ["rethink prepare gsr-qwen2.5-7b-data --out runs/gsr-qwen2.5-7b.parquet"],
    "runs/tiny-with-more-words": ["python -m rethink.models.make_tiny runs/tiny-with-more-words --grow"],
    # Nothing that shipped recipes make.
    "runs/demo-gsr-2": [],
    "runs": [],
    "tiny": [],
    "countdown": [],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize(("path", "commands"), MADE_BY.items())
def test_the_commands_that_make_a_path(path: str, commands: list[str]) -> None:
    """Guards against commands that are missing, remarks that are taken for arguments, and paths that only begin alike."""
    assert commands_that_make(path) == commands


SHIPPED = sorted(file.stem for file in recipes.FOLDER.glob("*.toml"))


@pytest.mark.parametrize("recipe", SHIPPED)
def test_all_that_a_recipe_reads_can_be_made(recipe: str) -> None:
    """Guards against recipes whose data or models nobody can make, and commands with a recipe or setting that is none."""
    loaded = load_recipe(recipe)
    for path in (loaded.model.path, loaded.teacher.path, loaded.problems.source):
        commands = commands_that_make(path)
        assert bool(commands) == path.startswith("runs/")
        for command in commands:
            program, name, *words = shlex.split(command)
            if program == "rethink":
                assert name in ("train", "prepare")
                load_recipe(words[0], [word for word in words[1:] if "=" in word])


def test_a_run_without_its_data_names_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: `rethink train demo-gsr` said only that there is no file, and its data recipe asked the hub for a model
    called runs/demo-grpo-signs."""
    rethink = in_process(capsys, monkeypatch, tmp_path)
    made = "rethink prepare demo-gsr-data --out runs/demo-gsr.parquet"
    wanted = f"problems.source: there is no runs/demo-gsr.parquet yet; make it with: {TEACHER} && {made}"
    assert_one_message(rethink("train", "demo-gsr"), wanted)
    assert_one_message(rethink("train", "demo-gsr", "--dry-run"), wanted)
    wanted = f"teacher.path: there is no runs/demo-grpo-signs yet; make it with: {TEACHER}"
    assert_one_message(
        rethink("prepare", "demo-gsr-data", "problems.limit=32", "--out", "runs/demo-gsr.parquet"), wanted
    )
    assert_one_message(rethink("train", "demo-gsr", "problems.source=own.parquet"), "there is no file own.parquet")


def test_what_is_there_or_served_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a refusal of a model that an endpoint serves under the same name, and of files that are there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo-grpo-signs").mkdir(parents=True)
    check_inputs(load_recipe("demo-gsr-data"))
    served = ["teacher.path=runs/demo-erl", "teacher.endpoint.url=http://127.0.0.1:1/v1"]
    check_inputs(load_recipe("demo-gsr-data", served))
    with pytest.raises(UserError, match=r"^teacher.path: there is no runs/demo-erl yet"):
        check_inputs(load_recipe("demo-gsr-data", served[:1]))
