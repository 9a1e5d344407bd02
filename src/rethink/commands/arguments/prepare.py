"""`rethink prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import TRAIN, Declared
from rethink.commands.arguments.options import Recipe, Settings
from rethink.commands.arguments.settings_command import SettingsCommand


def prepare(
    recipe: Recipe,
    settings: Settings = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="New .parquet file; a data card (.md) is written next to it.")
    ] = Path("prepared.parquet"),
) -> None:
    """Prepare the data that a method trains on: failures of the start model, or a teacher's answers."""
    from rethink.commands.prepare import prepare as run

    run(recipe, settings or [], out)


COMMAND = Declared(
    prepare,
    TRAIN,
    examples=(
        "rethink prepare demo-gsr-data --out gsr.parquet",
        "rethink prepare rrr-countdown-data model.path=Qwen/Qwen2.5-3B-Instruct --out failures.parquet",
    ),
    cls=SettingsCommand,
)
