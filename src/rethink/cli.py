"""The command line: `rethink demo | train | plan | export | prepare | eval | answer | compare | cross | grade`.

User errors end with one message and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rethink.distributed import should_report, under_torchrun
from rethink.errors import UserError
from rethink.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train language models to solve problems and to improve their own answers, and measure whether they do.",
)

ON = "Suites (math500, math5, gsm8k, ...), generators (countdown, gym:TASK), .jsonl or .parquet files, hub:NAME."
DATA = "Folder with the suites as NAME/SPLIT.parquet or NAME.jsonl; without it they come from the hub."
LENIENT = "Also accept an answer that is not in the form that was asked for; counted apart."
STRATEGY = (
    "refine (solve, and refine each draft) or solve; or several to compare, with commas: refine:2, vote:8, merge:4, "
    "best:4, reflect, reflexion:2, self-refine, socratic:20, and stages joined by +, as in solve:8+refine+vote."
)
ONE_STRATEGY = (
    "refine (the default), solve, refine:2, vote:8, merge:4, best:4, self-refine, socratic:20, ..., joined by +."
)

Recipe = Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships with the package.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="key=value", help="Settings to replace.")]
Model = Annotated[str, typer.Argument(help='A folder, a hub name, "tiny", or a name at the endpoint.')]
Answers = Annotated[Path | None, typer.Option(help="Folder for the answers; a new one under runs/ by default.")]
Endpoint = Annotated[str, typer.Option(metavar="URL", help="An OpenAI-compatible server that has the model.")]
Data = Annotated[str, typer.Option(metavar="DIR", help=DATA)]
Lenient = Annotated[bool, typer.Option("--lenient", help=LENIENT)]
Prompts = Annotated[str, typer.Option(help="A recipe whose prompts, columns, sampling and limits to use.")]


def main() -> None:
    """Entry point."""
    # A console script does not look for modules in the current folder; module:Class and module:function should.
    sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except UserError as err:
        if should_report(err):
            print(f"rethink: {err}", file=sys.stderr, flush=True)
        if under_torchrun():
            os._exit(2)  # connections to processes that are gone could make an orderly end wait
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
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Methods: grpo, think_twice (both by default), reflect_retry_reward, think_tuning, gsr.",
        ),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Train GRPO and ThinkTwice from the same tiny model, and compare them before and after one refinement."""
    from rethink.commands.demo import run_demo

    if more and not method:
        raise UserError(f"the demo takes no arguments ({' '.join(more)}); methods go behind --method")
    run_demo(seed, out, updates, [*(method or []), *(more or [])])


@app.command()
def train(
    recipe: Recipe,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the run folder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings and what would happen.")] = False,
) -> None:
    """Run a recipe."""
    from rethink.commands.train import dry_run as describe
    from rethink.commands.train import train as run

    if dry_run:
        describe(recipe, settings or [])
    else:
        run(recipe, settings or [], resume)


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, a checkpoint, or an adapter.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not be there, or be empty.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Write a trained model as an ordinary Hugging Face folder, with an adapter (LoRA) merged into its weights."""
    from rethink.commands.export import export as run

    run(source, out, dtype)


@app.command()
def prepare(
    recipe: Recipe,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="The .parquet file to write; a data card is written beside it.")] = Path(
        "prepared.parquet"
    ),
) -> None:
    """Make the data that a method is trained on, with the start weights: failures, or a teacher's answers."""
    from rethink.commands.prepare import prepare as run

    run(recipe, settings or [], out)


@app.command()
def plan(
    recipe: Recipe,
    settings: Settings = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs.")] = 1,
    gpu_memory: Annotated[float, typer.Option(metavar="GIB", help="Memory of each.")] = 80.0,
    config: Annotated[Path | None, typer.Option(help="config.json of the model, where it is not at hand.")] = None,
    question_tokens: Annotated[int, typer.Option(help="Length of a question, where problems are not at hand.")] = 200,
    reply_share: Annotated[float, typer.Option(help="Mean length of a reply, as a share of its cap.")] = 0.5,
    out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")] = None,
) -> None:
    """What a recipe needs, before anything starts: memory per GPU and tokens per update; and what helps."""
    from rethink.commands.plan import plan as run
    from rethink.plan.token_counts import Lengths

    run(recipe, settings or [], gpus, gpu_memory, config, Lengths(question_tokens, reply_share), out)


@app.command(name="eval")
def evaluate(
    model: Model,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE...] [key=value...]", help="More suites; recipe settings.")
    ] = None,
    on: Annotated[list[str] | None, typer.Option(metavar="SUITE...", help=ON)] = None,
    strategy: Annotated[str, typer.Option(help=STRATEGY)] = "",
    out: Answers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in --out.")] = False,
    endpoint: Endpoint = "",
    data: Data = "",
    lenient: Lenient = False,
    drafts: Annotated[
        Path | None, typer.Option(help="Begin with these: an evaluation's folder, or a file of replies.")
    ] = None,
    question: Annotated[str, typer.Option(help="Column of the question in a file of drafts.")] = "question",
    answer: Annotated[str, typer.Option(help="Column of the gold answer in a file of drafts.")] = "answer",
    response: Annotated[str, typer.Option(help="Column of the draft in a file of drafts.")] = "response",
    recipe: Prompts = "",
) -> None:
    """Solve each problem, refine each answer, and say whether refinement helped; or compare strategies at equal cost.

    Settings are those of a recipe, for example evaluation.n=4, sampled at evaluation.sampling.temperature=0.7.
    """
    from rethink.commands.evaluate import evaluate as run
    from rethink.evaluation.drafts import DraftColumns

    suites, rest = _split_settings(on, settings)
    named = {
        "evaluation.strategy": strategy,
        "endpoint.url": endpoint,
        "evaluation.problems.data": data,
        "evaluation.problems.extraction": "lenient" if lenient else "",
    }
    columns = DraftColumns(question, answer, response)
    run(model, suites, [*_given(named), *rest], recipe, out, resume, drafts, columns)


@app.command()
def answer(
    model: Model,
    given: Annotated[
        list[str] | None, typer.Argument(metavar="[QUESTION] [key=value...]", help="The question; recipe settings.")
    ] = None,
    strategy: Annotated[str, typer.Option(help=ONE_STRATEGY)] = "",
    gold: Annotated[str, typer.Option(help="The right answer, for strategies that see which answers are wrong.")] = "",
    file: Annotated[Path | None, typer.Option(help="Instead: a .jsonl or .parquet file of questions.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --file: the answers, one JSON line per question.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers in --out.")] = False,
    column: Annotated[str, typer.Option(help="Column of the question in --file.")] = "question",
    answer: Annotated[str, typer.Option(help="Column of the gold answer in --file, where one is needed.")] = "",
    id: Annotated[str, typer.Option(help="Column of the question's id in --file; rows are numbered without.")] = "",
    endpoint: Endpoint = "",
    recipe: Annotated[str, typer.Option(help="A recipe whose prompts, sampling and form of answer to use.")] = "",
) -> None:
    """Answer a question, refine the answer, and say what changed; or answer a file of questions."""
    from rethink.commands.answer import answer_file, answer_one
    from rethink.problems.question import QuestionColumns

    asked, settings = (given or [])[: file is None], (given or [])[file is None :]
    settings = [*_given({"evaluation.strategy": strategy, "endpoint.url": endpoint}), *settings]
    if file is None:
        if len(asked) != 1 or out is not None or resume:
            raise UserError("answer needs one question in quotes, or --file QUESTIONS --out ANSWERS.jsonl")
        if any("=" not in setting for setting in settings):
            raise UserError("the question comes right after the model, in quotes, and settings key=value behind it")
        answer_one(model, asked[0], gold, recipe, settings)
        return
    if gold or out is None:
        raise UserError(
            "with --file, --out names the file of answers, and --answer the column of gold answers, not --gold"
        )
    answer_file(model, file, out, QuestionColumns(column, answer, id), resume, recipe, settings)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="An evaluation's folder, a training run, or a file.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another on the same problems; it is subtracted.")],
    k: Annotated[list[int] | None, typer.Option(min=1, help="Also compare pass@k.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """The paired difference of two evaluations, with intervals and p-values."""
    from rethink.commands.compare import compare as run

    run(first, second, k or [], out)


@app.command()
def cross(
    models: Annotated[list[str], typer.Argument(metavar="MODEL... [key=value...]", help="Models; recipe settings.")],
    on: Annotated[list[str] | None, typer.Option(metavar="SUITE", help=f"{ON} Several with commas.")] = None,
    out: Answers = None,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="An OpenAI-compatible server that has all models.")] = "",
    data: Data = "",
    recipe: Prompts = "",
) -> None:
    """Every model refines every model's drafts: a matrix of solvers and refiners."""
    from rethink.commands.compare import cross as run

    names, settings = _split_settings(None, models)
    named = {"endpoint.url": endpoint, "evaluation.problems.data": data}
    run(names, on or [], [*_given(named), *settings], recipe, out)


@app.command()
def grade(
    file: Annotated[
        Path | None, typer.Argument(help="A .jsonl or .parquet file with replies and gold answers.")
    ] = None,
    answer: Annotated[str, typer.Option(help="Column of the gold answer; dots reach into nested ones.")] = "answer",
    response: Annotated[str, typer.Option(help="Column of the reply.")] = "response",
    out: Annotated[Path | None, typer.Option(help="Verdicts, one JSON line per row, in order.")] = None,
    verifier: Annotated[
        str, typer.Option(help="boxed, choice, calls, bfcl, equation, countdown, or module:function.")
    ] = "boxed",
    lenient: Lenient = False,
    against: Annotated[str, typer.Option(help="Column with another grader's verdicts, to list disagreements.")] = "",
    by: Annotated[str, typer.Option(help="Column whose values get a row each in the summary.")] = "",
    gold: Annotated[str, typer.Option(metavar="SUITE", help="Grade a suite's own gold answers instead of FILE.")] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="Split of the suite.")] = "",
) -> None:
    """Grade existing replies; no model needed."""
    from rethink.commands.grade import check_suites, grade_file
    from rethink.evaluation.grade import GradeSettings
    from rethink.problems.source import find_form

    if gold:
        check_suites(gold, data, split, lenient)
        return
    if file is None or out is None:
        raise UserError("grade needs a file and --out FILE.jsonl, or --gold SUITE")
    how = GradeSettings(find_form(verifier), answer, response, lenient=lenient, against=against, by=by)
    grade_file(file, out, how)


def _split_settings(on: list[str] | None, rest: list[str] | None) -> tuple[list[str], list[str]]:
    """Names, and settings of the form key=value, which may stand in one list."""
    rest = rest or []
    return [*(on or []), *(r for r in rest if "=" not in r)], [r for r in rest if "=" in r]


def _given(settings: dict[str, str]) -> list[str]:
    """Settings of the form key=value for the options that were given."""
    from rethink.commands.console import toml_string

    return [f"{key}={toml_string(value)}" for key, value in settings.items() if value]
