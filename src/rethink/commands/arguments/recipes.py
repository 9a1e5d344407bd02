"""`rethink recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from rethink.commands.arguments.completion import recipe_names
from rethink.commands.arguments.declared import TRAIN, Declared


def recipes(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME | WORD...]",
            help="Recipe to print, or words that the listed recipes contain.",
            autocompletion=recipe_names,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead (to stdout).")] = False,
) -> None:
    """List the recipes of the package: method, model, hardware and time. With a NAME, print that recipe."""
    from rethink.commands.recipes import recipes as run

    run(words or [], json)


COMMAND = Declared(
    recipes,
    TRAIN,
    examples=(
        "rethink recipes",
        "rethink recipes qwen grpo",
        "rethink recipes demo-think-twice",
        "rethink recipes thinktwice --json",
    ),
)
