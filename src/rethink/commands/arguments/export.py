"""`rethink export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import TRAIN, Declared


def export(
    source: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, a checkpoint, or an adapter.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New or empty folder for the model.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Write a trained model as an ordinary Hugging Face folder; a LoRA adapter is merged into the weights."""
    from rethink.commands.export import export as run

    run(source, out, dtype)


COMMAND = Declared(
    export,
    TRAIN,
    examples=(
        "rethink export runs/mine --out models/mine",
        "rethink export runs/mine/checkpoints/000120 --out models/mine-120 --dtype bfloat16",
    ),
)
