"""The command line: `rethink demo | train | eval`. User errors end with one message and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rethink import __version__
from rethink.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train language models to solve problems and to improve their own answers, and measure whether they do.",
)


def main() -> None:
    """Entry point."""
    # A console script does not look for modules in the current folder; module:Class and module:function should.
    sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except UserError as err:
        print(f"rethink: {err}", file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the runs: the order of problems, and every sample.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; a new one under runs/ by default.")] = None,
    updates: Annotated[
        int | None, typer.Option(min=2, help="Updates of each run; the recipes' number by default.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Methods to run: grpo, think_twice. Default: both.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Train GRPO and ThinkTwice from the same tiny model, and compare them before and after one refinement."""
    from rethink.demo.run import run_demo

    if more and not method:
        raise UserError(f"the demo takes no arguments ({' '.join(more)}); methods go behind --method")
    run_demo(seed, out, updates, [*(method or []), *(more or [])])


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships with the package.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="Settings to replace.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the run folder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings and what would happen.")] = False,
) -> None:
    """Run a recipe."""
    from rethink.commands import dry_run as describe
    from rethink.commands import train as run

    if dry_run:
        describe(recipe, settings or [])
    else:
        run(recipe, settings or [], resume)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help='A folder, a hub name, or "tiny".')],
    on: Annotated[str, typer.Option(help='"countdown", a .jsonl or .parquet file, or hub:NAME.')],
    out: Annotated[Path | None, typer.Option(help="Folder for the answers; a new one under runs/ by default.")] = None,
    recipe: Annotated[str, typer.Option(help="A recipe whose prompts, columns and limits to use.")] = "",
    settings: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="Recipe settings.")] = None,
) -> None:
    """Solve each problem, refine each answer once, and say whether the second look helped.

    Settings are those of a recipe, for example evaluation.n=4 or evaluation.problems.answer=gold.
    """
    from rethink.commands import evaluate as run

    run(model, on, out, recipe, settings or [])
