"""`rethink grade`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.completion import suites
from rethink.commands.arguments.declared import EVALUATE, Declared
from rethink.commands.arguments.options import GRADING, OUTPUT, Data, Json, Lenient, Thinking
from rethink.errors import UserError

OWN = "A verifier of yours (module:function)"
SUITE = "Gold answers of a suite"


def grade(
    file: Annotated[Path | None, typer.Argument(help="File or folder with replies and gold answers.")] = None,
    response: Annotated[str, typer.Option(metavar="NAME", help="Column of the reply.")] = "response",
    answer: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the gold answer; a.b is field b of column a.")
    ] = "answer",
    verifier: Annotated[
        str,
        typer.Option(
            help="boxed, choice, calls, bfcl, equation, countdown, or module:function.", rich_help_panel=GRADING
        ),
    ] = "boxed",
    lenient: Lenient = False,
    refinements: Annotated[
        bool,
        typer.Option(
            "--refinements",
            help="The replies are refinements, which may quote earlier answers.",
            rich_help_panel=GRADING,
        ),
    ] = False,
    thinking: Thinking = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time limit of module:function.", min=0.001, rich_help_panel=OWN),
    ] = 10.0,
    memory: Annotated[
        float, typer.Option(metavar="GIB", help="Memory limit of module:function.", min=0.001, rich_help_panel=OWN)
    ] = 4.0,
    sandbox: Annotated[
        bool,
        typer.Option(
            help="Run module:function without network, keys and a writable disk (docs/security.md).",
            rich_help_panel=OWN,
        ),
    ] = True,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="Run module:function in this process, without limits or sandbox.",
            rich_help_panel=OWN,
        ),
    ] = False,
    gold: Annotated[
        str,
        typer.Option(
            metavar="SUITE",
            help="Grade a suite's own gold answers instead of FILE.",
            rich_help_panel=SUITE,
            autocompletion=suites,
        ),
    ] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="Split of the suite of --gold.", rich_help_panel=SUITE)] = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the verdicts, one JSON line per row.", rich_help_panel=OUTPUT),
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="NAME", help="Column to group the summary by.", rich_help_panel=OUTPUT)
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Column of another grader's verdicts, to list disagreements.",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Grade existing replies; no model needed."""
    from rethink.commands.grade import check_suites, grade_file
    from rethink.evaluation.grade import GradeSettings
    from rethink.problems.source import find_answer_format
    from rethink.settings import ProblemSource

    if gold:
        check_suites(gold, data, split, lenient, json)
        return
    if file is None or out is None:
        raise UserError(f"grade needs {'--out FILE' if file else 'a file of replies, or --gold SUITE'}")
    limits = ProblemSource(
        verifier_timeout_s=timeout, verifier_memory_gib=memory, verifier_sandbox=sandbox, verifier_in_process=in_process
    )
    form = find_answer_format(verifier, limits)
    settings = GradeSettings(form, answer, response, lenient, against, by, thinking or (), refinements)
    grade_file(file, out, settings, json)


COMMAND = Declared(
    grade,
    EVALUATE,
    examples=(
        "rethink grade answers.jsonl --answer gold --response reply --out verdicts.jsonl",
        "rethink grade answers.csv --verifier choice --by subject --out verdicts.jsonl --json",
        "rethink grade answers.jsonl --verifier my_module:verify --timeout 5 --out verdicts.jsonl",
        "rethink grade --gold countdown",
    ),
)
