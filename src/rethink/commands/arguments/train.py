"""`rethink train`."""

from __future__ import annotations

from typing import Annotated

import typer

from rethink.commands.arguments.declared import TRAIN, Declared
from rethink.commands.arguments.options import Recipe, Settings
from rethink.commands.arguments.settings_command import SettingsCommand

CHECK = "Check only"


def train(
    recipe: Recipe,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest checkpoint of the run.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check and describe the run, and train nothing.", rich_help_panel=CHECK),
    ] = False,
    all: Annotated[
        bool, typer.Option("--all", help="Like --dry-run, with all settings.", rich_help_panel=CHECK)
    ] = False,
) -> None:
    """Train a model as a recipe says."""
    from rethink.commands.dry_run import dry_run as describe
    from rethink.commands.train import train as run

    if dry_run or all:
        describe(recipe, settings or [], all, resume)
    else:
        run(recipe, settings or [], resume)


COMMAND = Declared(
    train,
    TRAIN,
    examples=(
        "rethink train demo-think-twice out=runs/mine updates=80",
        "rethink train demo-think-twice out=runs/mine updates=120 --resume",
        "rethink train thinktwice-qwen3-4b training.lr=5e-7 --dry-run",
        "rethink train demo-grpo lora.rank=8 seed=1",
    ),
    cls=SettingsCommand,
)
