"""Arguments and options that several commands have, and the panels that group options in their help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.completion import models, recipe_names, suites

PROBLEMS = "Problems"
MODEL = "Model and strategy"
DRAFTS = "Drafts that exist already"
GRADING = "Grading"
OUTPUT = "Output"

Recipe = Annotated[
    str, typer.Argument(help="Name of a recipe in the package, or a recipe file.", autocompletion=recipe_names)
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Recipe settings to replace, such as updates=80.")
]
Model = Annotated[
    str,
    typer.Argument(
        help="Model folder, hub name, model of the package (tiny, tiny-signs, tiny-shapes), or name at --endpoint.",
        autocompletion=models,
    ),
]
On = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SUITE...",
        help="Benchmarks (gsm8k, math500, math5, ...), generators (countdown, signs, gym:TASK), files or folders of "
        "problems, or hub:NAME.",
        rich_help_panel=PROBLEMS,
        autocompletion=suites,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for the answers; default: a new one in runs/.", rich_help_panel=OUTPUT),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the command that wrote --out.", rich_help_panel=OUTPUT)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document instead of tables (to stdout).", rich_help_panel=OUTPUT),
]
Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="OpenAI-compatible server that serves the model.", rich_help_panel=MODEL),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="Folder with benchmarks as NAME/SPLIT.parquet or NAME.jsonl (or .json, .csv); default: download from the hub.",
        rich_help_panel=PROBLEMS,
    ),
]
Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient",
        help="Also accept answers in another form than the prompt asks for; count them separately.",
        rich_help_panel=GRADING,
    ),
]
Folders = Annotated[
    list[Path],
    typer.Argument(metavar="FOLDER...", help="Folders of runs and evaluations, or folders that contain them."),
]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "--scorer",
        metavar="NAME",
        help="Score in the logs of other tools that says what is right. Can be repeated, for logs with other names.",
    ),
]
Thinking = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="OPEN CLOSE", help="Marks around the thinking, if they are not common ones.", rich_help_panel=GRADING
    ),
]
PromptRecipe = Annotated[
    str,
    typer.Option(
        metavar="RECIPE",
        help="Recipe with the prompts, sampling and answer format to use.",
        rich_help_panel=MODEL,
        autocompletion=recipe_names,
    ),
]


def split_settings(on: Sequence[str] | None, words: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Separate names from settings (key=value); return both, with `on` before the other names.

    >>> split_settings(["aime"], ["amc", "evaluation.n=4"])
    (['aime', 'amc'], ['evaluation.n=4'])
    """
    words = words or []
    return [*(on or []), *(w for w in words if "=" not in w)], [w for w in words if "=" in w]
