"""`rethink export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import TRAIN, Declared


def export(
    source: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, a checkpoint, or an adapter.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="New or empty folder for the model.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    push: Annotated[str, typer.Option(metavar="NAME", help="Also push it to this repository on the hub.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Push to a repository with files, and replace the model in it.")
    ] = False,
) -> None:
    """Write a trained model as an ordinary Hugging Face folder; a LoRA adapter is merged into the weights."""
    from rethink.commands.export import export as run

    run(source, out, dtype, push, private, exist_ok)


COMMAND = Declared(
    export,
    TRAIN,
    examples=(
        "rethink export runs/mine --out models/mine",
        "rethink export runs/mine/checkpoints/000120 --out models/mine-120 --dtype float32",
        "rethink export runs/mine --push mine --private",
    ),
)
