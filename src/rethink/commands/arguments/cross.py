"""`rethink cross`."""

from __future__ import annotations

from typing import Annotated

import typer

from rethink.commands.arguments.completion import models as model_names
from rethink.commands.arguments.completion import suites
from rethink.commands.arguments.declared import EVALUATE, Declared
from rethink.commands.arguments.options import MODEL, PROBLEMS, Data, Json, Out, PromptRecipe, split_settings


def cross(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [key=value...]",
            help="Models; recipe settings to replace.",
            autocompletion=model_names,
        ),
    ],
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUITE",
            help="Suites as for `rethink eval`; several with commas.",
            rich_help_panel=PROBLEMS,
            autocompletion=suites,
        ),
    ] = None,
    data: Data = "",
    recipe: PromptRecipe = "",
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible server that serves all the models.", rich_help_panel=MODEL),
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Let every model refine every model's drafts, and print the matrix of accuracies."""
    from rethink.commands.compare import cross as run
    from rethink.commands.typed_settings import with_options

    names, settings = split_settings(None, models)
    options = {"endpoint.url": endpoint, "evaluation.problems.data": data}
    run(names, on or [], with_options(options, settings), recipe, out, json)


COMMAND = Declared(
    cross,
    EVALUATE,
    examples=(
        "rethink cross runs/grpo runs/think-twice --on countdown --recipe demo-think-twice",
        "rethink cross MODEL_A MODEL_B --on math500 --recipe thinktwice-cross --json",
    ),
)
