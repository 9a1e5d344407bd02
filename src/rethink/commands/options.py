"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="Name of a recipe in the package, or a recipe file.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Recipe settings to replace, such as updates=80.")
]
Model = Annotated[
    str, typer.Argument(help="Model folder, hub name, model of the package (tiny, tiny-signs), or name at --endpoint.")
]
On = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SUITE...",
        help="Benchmarks (gsm8k, math500, math5, ...), generators (countdown, signs, gym:TASK), files or folders of "
        "problems, or hub:NAME.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the answers; default: a new one in runs/.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the command that wrote --out.")]
Endpoint = Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible server that serves the model.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="Folder with benchmarks as NAME/SPLIT.parquet or NAME.jsonl (or .json, .csv); default: download from the hub.",
    ),
]
Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient", help="Also accept answers in another form than the prompt asks for; count them separately."
    ),
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
    tuple[str, str] | None, typer.Option(metavar="OPEN CLOSE", help="Marks of the thinking, if no common ones.")
]
PromptRecipe = Annotated[
    str, typer.Option(metavar="RECIPE", help="Recipe with the prompts, sampling and answer format to use.")
]
