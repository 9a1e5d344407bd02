"""`rethink compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import EVALUATE, Declared
from rethink.commands.arguments.options import OUTPUT, Json, Metric
from rethink.commands.arguments.pair_option import PairCommand, pairs


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="Folder of an evaluation or a training run, or another tool's log.")
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one, on the same problems.")],
    pair: Annotated[
        list[Path] | None,
        typer.Option(metavar="BEFORE AFTER", help="The same with another training seed. Can be repeated."),
    ] = None,
    k: Annotated[list[int] | None, typer.Option(min=1, help="Also compare pass@k. Can be repeated.")] = None,
    metric: Metric = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the numbers as JSON.", rich_help_panel=OUTPUT)
    ] = None,
    json: Json = False,
) -> None:
    """Print AFTER minus BEFORE, paired by problem, with intervals and p-values; with --pair, over several runs of each."""
    from rethink.commands.compare import compare as run

    run([(before, after), *pairs(pair or [])], k or [], out, metric or [], json)


COMMAND = Declared(
    compare,
    EVALUATE,
    examples=(
        "rethink compare runs/before runs/after --k 4 --json",
        "rethink compare runs/grpo-0 runs/ours-0 --pair runs/grpo-1 runs/ours-1 --pair runs/grpo-2 runs/ours-2",
        "rethink compare before.eval samples_gsm8k.jsonl --metric exact_match",
    ),
    cls=PairCommand,
)
