"""`rethink demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.completion import demo_methods
from rethink.commands.arguments.declared import TRAIN, Declared
from rethink.errors import UserError


def demo(
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Methods to compare; default: grpo think_twice. All that have a demo recipe are possible, such as pag.",
            autocompletion=demo_methods,
        ),
    ] = None,
    updates: Annotated[int | None, typer.Option(min=2, help="Updates per run; default: as in the recipes.")] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", metavar="N,...", help="Random seeds: one, or several with commas.")
    ] = "0",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the runs; default: a new one in runs/.")
    ] = None,
    vision: Annotated[
        bool,
        typer.Option("--vision", help="Train GRPO, VL-Rethinker and TON on images, and search with Socratic-MCTS."),
    ] = False,
    more_methods: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Train GRPO and ThinkTwice from the same tiny model on the CPU, and compare them before and after refinement."""
    from rethink.commands.demo import read_seeds, run_demo

    if more_methods and not method:
        raise UserError(f"the demo takes no arguments ({' '.join(more_methods)}); name methods after --method")
    if vision:
        from rethink.commands.demo_vision import run_vision_demo

        if method:
            raise UserError("--vision compares grpo, vl_rethinker and ton; leave out --method")
        run_vision_demo(read_seeds(seeds), out, updates)
        return
    run_demo(read_seeds(seeds), out, updates, [*(method or []), *(more_methods or [])])


COMMAND = Declared(
    demo,
    TRAIN,
    examples=(
        "rethink demo --updates 40",
        "rethink demo --method grpo pag",
        "rethink demo --seeds 0,1,2 --out runs/demo",
        "rethink demo --vision",
    ),
)
