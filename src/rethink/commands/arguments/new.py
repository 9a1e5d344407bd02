"""`rethink new`."""

from __future__ import annotations

from typing import Annotated

import typer

from rethink.commands.arguments.completion import methods, models, suites
from rethink.commands.arguments.declared import TRAIN, Declared
from rethink.commands.arguments.options import PROBLEMS


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe; the file is NAME.toml.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="File or folder of problems (docs/problems.md), benchmark, generator, or hub:NAME.",
            rich_help_panel=PROBLEMS,
            autocompletion=suites,
        ),
    ] = "gsm8k",
    question: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Column of the question, if its name does not say so.", rich_help_panel=PROBLEMS
        ),
    ] = "",
    answer: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Column of the gold answer, if its name does not say so.", rich_help_panel=PROBLEMS
        ),
    ] = "",
    verifier: Annotated[
        str,
        typer.Option(
            help="How to grade: boxed (default), choice (default if there are options), ..., or module:function.",
            rich_help_panel=PROBLEMS,
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="Model folder, hub name, or GGUF file.", autocompletion=models),
    ] = "Qwen/Qwen3-0.6B",
    method: Annotated[
        str, typer.Option(metavar="NAME", help="Method (docs/methods), or module:Class.", autocompletion=methods)
    ] = "think_twice",
) -> None:
    """Write a commented recipe for a file of problems, and print what was assumed about its columns."""
    from rethink.commands.new import new as run

    run(name, data, model, method, question, answer, verifier)


COMMAND = Declared(
    new,
    TRAIN,
    examples=(
        "rethink new mine --data problems.csv",
        "rethink new mine --data problems.jsonl --question text --answer result --method grpo",
        "rethink new mine --data gsm8k --model Qwen/Qwen3-1.7B --method score",
    ),
)
