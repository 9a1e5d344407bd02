"""`rethink eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import EVALUATE, Declared
from rethink.commands.arguments.options import (
    DRAFTS,
    MODEL,
    Data,
    Endpoint,
    Json,
    Lenient,
    Model,
    On,
    Out,
    PromptRecipe,
    Resume,
    split_settings,
)
from rethink.commands.arguments.settings_command import SettingsCommand


def evaluate(
    model: Model,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE...] [key=value...]", help="More suites; recipe settings to replace."),
    ] = None,
    on: On = None,
    data: Data = "",
    lenient: Lenient = False,
    strategy: Annotated[
        str,
        typer.Option(
            help="What to do with each problem: refine (default: solve, then refine the draft), solve, refine:2, vote:8, "
            "merge:4, rsa:8,4,3, best:4, reflect, reflexion:2, fresh-retry, self-refine, socratic:20, or stages joined by "
            "+, such as solve:8+refine+vote. Several with commas are compared.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    recipe: PromptRecipe = "",
    endpoint: Endpoint = None,
    drafts: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="First answers to use: folder of an evaluation, or file of replies.",
            rich_help_panel=DRAFTS,
        ),
    ] = None,
    question: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the question in a --drafts file.", rich_help_panel=DRAFTS)
    ] = "question",
    answer: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column of the gold answer in a --drafts file.", rich_help_panel=DRAFTS),
    ] = "answer",
    response: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the draft in a --drafts file.", rich_help_panel=DRAFTS)
    ] = "response",
    out: Out = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Measure accuracy before and after refinement, or compare strategies at equal cost.

    Useful settings: evaluation.n=4 (answers per problem), evaluation.sampling.temperature=0.7, and
    evaluation.problems.limit=50.
    """
    from rethink.commands.evaluate import evaluate as run
    from rethink.commands.typed_settings import with_options
    from rethink.evaluation.drafts import DraftColumns

    suites, rest = split_settings(on, settings)
    options = {
        "evaluation.strategy": strategy,
        "endpoint.url": endpoint,
        "evaluation.problems.data": data,
        "evaluation.problems.extraction": "lenient" if lenient else "",
    }
    columns = DraftColumns(question, answer, response)
    run(model, suites, with_options(options, rest), recipe, out, resume, drafts, columns, json)


COMMAND = Declared(
    evaluate,
    EVALUATE,
    examples=(
        "rethink eval tiny --on countdown --recipe demo-think-twice evaluation.problems.limit=50",
        "rethink eval runs/mine/checkpoints/000120 --on problems.csv evaluation.n=4 evaluation.sampling.temperature=1",
        "rethink eval my-model --endpoint http://localhost:8000 --on aime amc --strategy solve,refine,vote:5",
        "rethink eval my-model --endpoint http://localhost:8000 --drafts answers.jsonl --response reply",
        "rethink eval tiny --on countdown --recipe demo-grpo --out runs/mine --json",
    ),
    cls=SettingsCommand,
    name="eval",
)
