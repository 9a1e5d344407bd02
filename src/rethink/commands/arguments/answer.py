"""`rethink answer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.arguments.declared import USE, Declared
from rethink.commands.arguments.options import MODEL, Endpoint, Model, PromptRecipe, Resume
from rethink.errors import UserError

FILE = "A file of questions"


def answer(
    model: Model,
    question: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION] [key=value...]", help="Question, in quotes; recipe settings to replace."),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="How to answer: refine (default), solve, refine:2, vote:8, merge:4, rsa:8,4,3, best:4, self-refine, "
            "socratic:20, ..., or stages joined by +.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    recipe: PromptRecipe = "",
    endpoint: Endpoint = None,
    gold: Annotated[
        str, typer.Option(help="Right answer, for strategies that need to know which answers are wrong.")
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer the questions of a file or folder instead.", rich_help_panel=FILE),
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the question in --file.", rich_help_panel=FILE)
    ] = "question",
    answer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Column of the gold answer in --file, if the strategy needs it.",
            rich_help_panel=FILE,
        ),
    ] = "",
    id: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column of the id in --file; default: row numbers.", rich_help_panel=FILE),
    ] = "",
    image_column: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Column of images in --file, or several: A,B; default: images, decoded_image or image.",
            rich_help_panel=FILE,
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --file: file for the answers, one JSON line each.", rich_help_panel=FILE
        ),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Image of the question; repeat it for more.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Answer a question, refine the answer, and report what changed; or answer a file of questions."""
    from rethink.commands.answer import answer_file, answer_question
    from rethink.commands.typed_settings import with_options
    from rethink.problems.question import QuestionColumns

    words = question or []
    n_questions = 1 if file is None else 0
    options = {"evaluation.strategy": strategy, "endpoint.url": endpoint}
    settings = with_options(options, words[n_questions:])
    if file is None:
        if not words or out is not None or resume:
            raise UserError("give one question in quotes, or --file QUESTIONS --out ANSWERS.jsonl")
        if any("=" not in setting for setting in settings):
            raise UserError("put the question in quotes right after the model, and settings (key=value) after it")
        answer_question(model, words[0], gold, recipe, settings, image or ())
        return
    if gold or image or out is None:
        raise UserError(
            "--file needs --out ANSWERS.jsonl, and takes gold answers (--answer NAME) and images (--image-column NAME) "
            "from columns"
        )
    answer_file(model, file, out, QuestionColumns(column, answer, id, image_column), resume, recipe, settings)


COMMAND = Declared(
    answer,
    USE,
    examples=(
        'rethink answer tiny "3 7 5 -> 26" --recipe demo-think-twice',
        'rethink answer my-model "What is 1/2 + 1/3?" --endpoint http://localhost:8000 --strategy vote:5',
        "rethink answer my-model --file questions.csv --column text --out answers.jsonl",
    ),
)
