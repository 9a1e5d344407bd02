"""`rethink plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import TRAIN, Declared
from rethink.commands.arguments.options import OUTPUT, Json, Recipe, Settings
from rethink.commands.arguments.settings_command import SettingsCommand

GPUS = "GPUs"
ASSUMPTIONS = "What the plan assumes"


def plan(
    recipe: Recipe,
    settings: Settings = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.", rich_help_panel=GPUS)] = 1,
    gpu_memory: Annotated[float, typer.Option(metavar="GIB", help="Memory of each GPU.", rich_help_panel=GPUS)] = 80.0,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The model's config.json, if the model is not on this machine.",
            rich_help_panel=ASSUMPTIONS,
        ),
    ] = None,
    question_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of a made-up question, if the problems cannot be loaded here.", rich_help_panel=ASSUMPTIONS
        ),
    ] = 200,
    reply_share: Annotated[
        float,
        typer.Option(help="Mean length of a reply, as a share of sampling.max_tokens.", rich_help_panel=ASSUMPTIONS),
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the numbers as JSON.", rich_help_panel=OUTPUT)
    ] = None,
    json: Json = False,
) -> None:
    """Estimate a run's memory per GPU and tokens per update before it starts, and what helps if it does not fit."""
    from rethink.commands.plan import plan as run
    from rethink.plan.token_counts import Lengths

    run(recipe, settings or [], gpus, gpu_memory, config, Lengths(question_tokens, reply_share), out, json)


COMMAND = Declared(
    plan,
    TRAIN,
    examples=(
        "rethink plan demo-think-twice --gpu-memory 8",
        "rethink plan thinktwice-qwen3-4b --gpus 2 --gpu-memory 80 --json",
        "rethink plan thinktwice-qwen3-4b training.gradient_checkpointing=true --config config.json --out plan.json",
    ),
    cls=SettingsCommand,
)
