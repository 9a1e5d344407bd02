"""The command line: `rethink demo | train | eval | answer | serve | compare | cross | grade | plan | prepare | ...`.

A user's mistake ends with one message and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rethink.commands.console import print_error, warnings_as_notes
from rethink.commands.options import (
    Data,
    Endpoint,
    Lenient,
    Metric,
    Model,
    On,
    Out,
    PromptRecipe,
    Recipe,
    Resume,
    Settings,
    Thinking,
)
from rethink.commands.output_streams import lasting_output
from rethink.commands.pages import report, view
from rethink.commands.pair_option import PairCommand, pairs
from rethink.commands.serve import serve
from rethink.commands.settings_command import SettingsCommand
from rethink.distributed import should_report, under_torchrun
from rethink.errors import UserError
from rethink.signals import interrupt_on_sigterm
from rethink.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train language models to solve problems and to improve their own answers, and measure whether they do.",
    epilog="Start with: rethink demo",
)


def main() -> None:
    """Run the command line."""
    with lasting_output(), warnings_as_notes():
        try:
            _check_surroundings()
            with interrupt_on_sigterm(unless=under_torchrun()):  # a waiting rank runs no handler
                app()
        except UserError as err:
            if should_report(err):
                print_error(str(err))
            if under_torchrun():
                os._exit(2)  # a normal exit could wait for connections to lost processes
            sys.exit(2)


def _check_surroundings() -> None:
    """Let modules be imported from the current folder. Raise UserError for arguments that no file of ours could hold."""
    try:
        # A console script does not search the current folder for modules, but module:Class and module:function need it.
        sys.path.insert(0, str(Path.cwd()))
    except FileNotFoundError as err:
        raise UserError("the current folder no longer exists; change to another one") from err
    if sys.flags.optimize > 1:
        raise UserError("PYTHONOPTIMIZE=2 (python -OO) removes docstrings that transformers reads; unset it")
    for word in sys.argv[1:]:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{word} is not valid UTF-8; rename the file or folder")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: rethink demo --updates 40")
def demo(
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Methods to compare; default: grpo think_twice. All that have a demo recipe are possible, such as pag.",
        ),
    ] = None,
    updates: Annotated[int | None, typer.Option(min=2, help="Updates per run; default: as in the recipes.")] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", metavar="N,...", help="Random seeds: one, or several with commas.")
    ] = "0",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the runs; default: a new one in runs/.")
    ] = None,
    more_methods: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Train GRPO and ThinkTwice from the same tiny model on the CPU, and compare them before and after refinement."""
    from rethink.commands.demo import read_seeds, run_demo

    if more_methods and not method:
        raise UserError(f"the demo takes no arguments ({' '.join(more_methods)}); name methods after --method")
    run_demo(read_seeds(seeds), out, updates, [*(method or []), *(more_methods or [])])


@app.command(cls=SettingsCommand, epilog="Example: rethink train demo-think-twice out=runs/mine updates=80")
def train(
    recipe: Recipe,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest checkpoint of the run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and describe the run, and train nothing.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Like --dry-run, with all settings.")] = False,
) -> None:
    """Train a model as a recipe says."""
    from rethink.commands.dry_run import dry_run as describe
    from rethink.commands.train import train as run

    if dry_run or all:
        describe(recipe, settings or [], all, resume)
    else:
        run(recipe, settings or [], resume)


@app.command(
    name="eval", cls=SettingsCommand, epilog="Example: rethink eval tiny --on countdown --recipe demo-think-twice"
)
def evaluate(
    model: Model,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE...] [key=value...]", help="More suites; recipe settings to replace."),
    ] = None,
    on: On = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="What to do with each problem: refine (default: solve, then refine the draft), solve, refine:2, vote:8, "
            "merge:4, rsa:8,4,3, best:4, reflect, reflexion:2, fresh-retry, self-refine, socratic:20, or stages joined by "
            "+, such as solve:8+refine+vote. Several with commas are compared."
        ),
    ] = "",
    recipe: PromptRecipe = "",
    endpoint: Endpoint = None,
    data: Data = "",
    lenient: Lenient = False,
    drafts: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="First answers to use: folder of an evaluation, or file of replies."),
    ] = None,
    question: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the question in a --drafts file.")
    ] = "question",
    answer: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the gold answer in a --drafts file.")
    ] = "answer",
    response: Annotated[str, typer.Option(metavar="NAME", help="Column of the draft in a --drafts file.")] = "response",
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Measure accuracy before and after refinement, or compare strategies at equal cost.

    Useful settings: evaluation.n=4 (answers per problem), evaluation.sampling.temperature=0.7, and
    evaluation.problems.limit=50.
    """
    from rethink.commands.evaluate import evaluate as run
    from rethink.commands.typed_settings import with_options
    from rethink.evaluation.drafts import DraftColumns

    suites, rest = _split_settings(on, settings)
    options = {
        "evaluation.strategy": strategy,
        "endpoint.url": endpoint,
        "evaluation.problems.data": data,
        "evaluation.problems.extraction": "lenient" if lenient else "",
    }
    columns = DraftColumns(question, answer, response)
    run(model, suites, with_options(options, rest), recipe, out, resume, drafts, columns)


@app.command(epilog='Example: rethink answer tiny "3 7 5 -> 26" --recipe demo-think-twice')
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
            "socratic:20, ..., or stages joined by +."
        ),
    ] = "",
    recipe: PromptRecipe = "",
    endpoint: Endpoint = None,
    gold: Annotated[
        str, typer.Option(help="Right answer, for strategies that need to know which answers are wrong.")
    ] = "",
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer the questions of a file or folder instead.")
    ] = None,
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the question in --file.")] = "question",
    answer: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the gold answer in --file, if the strategy needs it.")
    ] = "",
    id: Annotated[str, typer.Option(metavar="NAME", help="Column of the id in --file; default: row numbers.")] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --file: file for the answers, one JSON line each.")
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
        answer_question(model, words[0], gold, recipe, settings)
        return
    if gold or out is None:
        raise UserError(
            "--file needs --out ANSWERS.jsonl, and takes gold answers from a column (--answer COLUMN), not from --gold"
        )
    answer_file(model, file, out, QuestionColumns(column, answer, id), resume, recipe, settings)


app.command(epilog="Example: rethink serve tiny-signs --recipe demo-gsr --strategy merge:3")(serve)


@app.command(cls=PairCommand, epilog="Example: rethink compare runs/grpo-0 runs/ours-0 --pair runs/grpo-1 runs/ours-1")
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
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the numbers as JSON.")] = None,
    metric: Metric = None,
) -> None:
    """Print AFTER minus BEFORE, paired by problem, with intervals and p-values; with --pair, over several runs of each."""
    from rethink.commands.compare import compare as run

    run([(before, after), *pairs(pair or [])], k or [], out, metric or [])


@app.command(epilog="Example: rethink cross MODEL_A MODEL_B --on math500 --recipe thinktwice-cross")
def cross(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL... [key=value...]", help="Models; recipe settings to replace.")
    ],
    on: Annotated[
        list[str] | None, typer.Option(metavar="SUITE", help="Suites as for `rethink eval`; several with commas.")
    ] = None,
    recipe: PromptRecipe = "",
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible server that serves all the models.")
    ] = None,
    data: Data = "",
    out: Out = None,
) -> None:
    """Let every model refine every model's drafts, and print the matrix of accuracies."""
    from rethink.commands.compare import cross as run
    from rethink.commands.typed_settings import with_options

    names, settings = _split_settings(None, models)
    options = {"endpoint.url": endpoint, "evaluation.problems.data": data}
    run(names, on or [], with_options(options, settings), recipe, out)


@app.command(epilog="Example: rethink grade answers.jsonl --answer gold --response reply --out verdicts.jsonl")
def grade(
    file: Annotated[Path | None, typer.Argument(help="File or folder with replies and gold answers.")] = None,
    response: Annotated[str, typer.Option(metavar="NAME", help="Column of the reply.")] = "response",
    answer: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the gold answer; a.b is field b of column a.")
    ] = "answer",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for the verdicts, one JSON line per row.")
    ] = None,
    verifier: Annotated[
        str, typer.Option(help="boxed, choice, calls, bfcl, equation, countdown, or module:function.")
    ] = "boxed",
    lenient: Lenient = False,
    refinements: Annotated[
        bool, typer.Option("--refinements", help="The replies are refinements, which may quote earlier answers.")
    ] = False,
    thinking: Thinking = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Column to group the summary by.")] = "",
    against: Annotated[
        str, typer.Option(metavar="NAME", help="Column of another grader's verdicts, to list disagreements.")
    ] = "",
    gold: Annotated[str, typer.Option(metavar="SUITE", help="Grade a suite's own gold answers instead of FILE.")] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="Split of the suite of --gold.")] = "",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Time limit of module:function.", min=0.001)] = 10.0,
    memory: Annotated[float, typer.Option(metavar="GIB", help="Memory limit of module:function.", min=0.001)] = 4.0,
    sandbox: Annotated[
        bool, typer.Option(help="Run module:function without network, keys and a writable disk (docs/security.md).")
    ] = True,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run module:function in this process, without limits or sandbox.")
    ] = False,
) -> None:
    """Grade existing replies; no model needed."""
    from rethink.commands.grade import check_suites, grade_file
    from rethink.evaluation.grade import GradeSettings
    from rethink.problems.source import find_answer_format
    from rethink.settings import ProblemSource

    if gold:
        check_suites(gold, data, split, lenient)
        return
    if file is None or out is None:
        raise UserError(f"grade needs {'--out FILE' if file else 'a file of replies, or --gold SUITE'}")
    limits = ProblemSource(
        verifier_timeout_s=timeout, verifier_memory_gib=memory, verifier_sandbox=sandbox, verifier_in_process=in_process
    )
    answer_format = find_answer_format(verifier, limits)
    grade_file(
        file, out, GradeSettings(answer_format, answer, response, lenient, against, by, thinking or (), refinements)
    )


@app.command(cls=SettingsCommand, epilog="Example: rethink plan thinktwice-qwen3-4b --gpus 2 --gpu-memory 80")
def plan(
    recipe: Recipe,
    settings: Settings = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 1,
    gpu_memory: Annotated[float, typer.Option(metavar="GIB", help="Memory of each GPU.")] = 80.0,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The model's config.json, if the model is not on this machine.")
    ] = None,
    question_tokens: Annotated[
        int, typer.Option(help="Tokens of a made-up question, if the problems cannot be loaded here.")
    ] = 200,
    reply_share: Annotated[
        float, typer.Option(help="Mean length of a reply, as a share of sampling.max_tokens.")
    ] = 0.5,
    out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the numbers as JSON.")] = None,
) -> None:
    """Estimate a run's memory per GPU and tokens per update before it starts, and what helps if it does not fit."""
    from rethink.commands.plan import plan as run
    from rethink.plan.token_counts import Lengths

    run(recipe, settings or [], gpus, gpu_memory, config, Lengths(question_tokens, reply_share), out)


@app.command(cls=SettingsCommand, epilog="Example: rethink prepare demo-gsr-data --out gsr.parquet")
def prepare(
    recipe: Recipe,
    settings: Settings = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="New .parquet file; a data card (.md) is written next to it.")
    ] = Path("prepared.parquet"),
) -> None:
    """Prepare the data that a method trains on: failures of the start model, or a teacher's answers."""
    from rethink.commands.prepare import prepare as run

    run(recipe, settings or [], out)


@app.command(epilog="Example: rethink export runs/mine --out models/mine")
def export(
    source: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, a checkpoint, or an adapter.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New or empty folder for the model.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Write a trained model as an ordinary Hugging Face folder; a LoRA adapter is merged into the weights."""
    from rethink.commands.export import export as run

    run(source, out, dtype)


app.command(epilog="Example: rethink report runs/mine --out mine.html")(report)
app.command(epilog="Example: rethink view runs")(view)


def _split_settings(on: list[str] | None, words: list[str] | None) -> tuple[list[str], list[str]]:
    """Separate names from settings (key=value); return both, with `on` before the other names."""
    words = words or []
    return [*(on or []), *(w for w in words if "=" not in w)], [w for w in words if "=" in w]
