"""`rethink demo --vision`: train GRPO, VL-Rethinker and TON on images of shapes; search at test time with Socratic-MCTS."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

from rethink.build import build_prompts, load_all_problems, local_policy, open_model
from rethink.commands.console import new_folder, print_note, print_result, toml_string, warn
from rethink.commands.evaluate import Job
from rethink.commands.evaluate import run as run_evaluation
from rethink.commands.tables import tables
from rethink.commands.train import run_with_progress, stopping
from rethink.errors import UserError
from rethink.evaluation.answers import Answer, first_answers
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.intervals import Estimate, average, rate
from rethink.evaluation.outcomes import solve_outcomes
from rethink.evaluation.results import compute_results
from rethink.evaluation.runs import over_seeds
from rethink.evaluation.stored import load_evaluation
from rethink.jsonl import Record, make_folder, read_lines, to_json, write_text
from rethink.methods.ton_thoughts import ThoughtForm
from rethink.printable import align_columns
from rethink.recipe import Recipe, load_recipe
from rethink.training.run import open_run

METHODS = ("grpo", "vl_rethinker", "ton")
FORM = ThoughtForm(answer=("", ""), empty=" ")
SEARCH = "demo-vision-socratic"

_NOTES = (
    "In percent, on {n} held-out questions about images, with 95% intervals{over}; start -> end of training.\n"
    "Skipped: answers with an empty thought. Only TON's start may skip; the others are asked to think.\n"
    "Useful: samples of a batch that have an advantage. Replay puts earlier samples in the places of the others.\n"
    "Numbers: {file}; curves and samples: {curves}"
)


@dataclass(frozen=True)
class Shown:
    """How a model answers: accuracy, share of skipped thoughts, and tokens per answer."""

    accuracy: Estimate
    skipped: Estimate
    tokens: Estimate


@dataclass(frozen=True)
class Row:
    """A method: how its model answers before and after training, the useful share of its samples, that of replayed ones
    in a batch, and the seconds of training and evaluation."""

    before: Shown
    after: Shown
    useful: float
    replayed: float
    seconds: float


def run_vision_demo(seeds: Sequence[int], out: Path | None, updates: int | None) -> None:
    """Train each method with each seed, print the tables and write summary.json."""
    folder = out or new_folder("demo-vision")
    if (folder / "summary.json").exists():
        raise UserError(f"{folder} holds a finished demo; choose another folder with --out DIR")
    rows: list[dict[str, Row]] = []
    n = 0
    for seed in seeds:
        row, n = _run_seed(seed, folder if len(seeds) == 1 else folder / f"seed-{seed}", updates)
        rows.append(row)
        print_result(f"seed {seed}\n\n{table(row)}\n")
    shown = rows[0]
    if len(rows) > 1:
        shown = {name: mean([row[name] for row in rows]) for name in METHODS}
        print_result(f"mean over seeds {', '.join(map(str, seeds))}\n\n{table(shown)}\n")
    search = _search(seeds[0], folder)
    summary: Record = {"seeds": [*seeds], "problems": n, "search": search}
    for name, row_of_method in shown.items():
        summary[name] = asdict(row_of_method)
    write_text(folder / "summary.json", to_json(summary, indent=1) + "\n")
    over = " over seeds" if len(seeds) > 1 else ""
    curves = f"{folder}{'/*' * (len(seeds) > 1)}/*/report.html"
    print_note(_NOTES.format(n=n, over=over, file=folder / "summary.json", curves=curves))


def _run_seed(seed: int, folder: Path, updates: int | None) -> tuple[dict[str, Row], int]:
    """Evaluate the start model and train each method. Return the rows, and the number of held-out problems."""
    recipes = {name: _load_recipe(name, seed, folder, updates) for name in METHODS}
    before, n = _evaluate_start(recipes, folder)
    return {name: _train(name, recipe, before[name]) for name, recipe in recipes.items()}, n


def _load_recipe(name: str, seed: int, folder: Path, updates: int | None) -> Recipe:
    settings = [f"seed={seed}", f"out={toml_string(str(folder / name))}"]
    if updates is not None:
        settings.append(f"updates={updates}")
    return load_recipe(f"demo-vision-{name.replace('_', '-')}", settings)


def _evaluate_start(recipes: dict[str, Recipe], folder: Path) -> tuple[dict[str, Shown], int]:
    """Return how the start model answers the held-out problems with each method's prompt, and their number."""
    found: dict[str, Shown] = {}
    by_prompt: dict[str, Shown] = {}
    first = recipes[METHODS[0]]
    _, held_out = load_all_problems(first)
    policy = local_policy(first, open_model(first.model, first.seed), first.evaluation.sampling)
    make_folder(folder)
    for name, recipe in recipes.items():
        prompts = build_prompts(recipe, recipe.seed)
        if prompts.solve not in by_prompt:
            file = folder / f"start-{name}.jsonl"
            answers = evaluate(policy, held_out, recipe.evaluation, prompts=prompts, file=file)
            by_prompt[prompts.solve] = describe(answers)
        found[name] = by_prompt[prompts.solve]
    return found, len(held_out)


def _train(name: str, recipe: Recipe, before: Shown) -> Row:
    """Train a method and return its row."""
    started = time.perf_counter()
    run = open_run(recipe, warn=warn)
    with stopping(run):
        evaluation = run_with_progress(run, label=name)
    if run.interrupted or evaluation is None:
        raise UserError(f"the demo was interrupted; the run so far is in {run.folder.path}")
    useful: list[float] = []
    replayed: list[float] = []
    n_samples = recipe.problems_per_batch * recipe.build_method().n_solve
    for _, record in read_lines(run.folder.metrics):
        if record["phase"] != "evaluation":
            if record["zero_std_groups_frac"] is not None:
                useful.append(1 - record["zero_std_groups_frac"])
            replayed.append(record.get("method/n_replayed", 0) / n_samples)
    after = describe(load_evaluation(run.folder.path).answers)
    seconds = time.perf_counter() - started
    return Row(before, after, sum(useful) / max(1, len(useful)), sum(replayed) / len(replayed), seconds)


def describe(answers: Sequence[Answer]) -> Shown:
    """Return how first answers look."""
    skipped: list[tuple[str, float]] = []
    tokens: list[tuple[str, float]] = []
    for problem, step in first_answers(answers):
        skipped.append((problem, float(FORM.is_skipped(step.text))))
        tokens.append((problem, float(step.n_tokens or 0)))
    return Shown(rate(solve_outcomes(answers)), rate(skipped), average(tokens))


def mean(rows: Sequence[Row]) -> Row:
    """Return the means over seeds, with intervals over seeds."""
    before, after = _mean_shown([row.before for row in rows]), _mean_shown([row.after for row in rows])
    numbers: list[float] = []
    for key in ("useful", "replayed", "seconds"):
        values = list(map(attrgetter(key), rows))
        numbers.append(sum(values) / len(values))
    return Row(before, after, *numbers)


def _mean_shown(runs: Sequence[Shown]) -> Shown:
    accuracy, skipped, tokens = (
        list(map(attrgetter(f"{key}.value"), runs)) for key in ("accuracy", "skipped", "tokens")
    )
    return Shown(_over_seeds(accuracy, 1.0), _over_seeds(skipped, 1.0), _over_seeds(tokens, math.inf))


def _over_seeds(values: Sequence[float], most: float) -> Estimate:
    found = over_seeds(values)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, most), found.n)  # NaN stays NaN


def table(rows: dict[str, Row]) -> str:
    """Return a line per method."""
    lines = [["", "before", "after", "skipped", "tokens", "useful", "replayed", "seconds"]]
    for name, row in rows.items():
        skipped = f"{row.before.skipped.value_percent()} -> {row.after.skipped.value_percent()}"
        tokens = f"{row.before.tokens.value:.1f} -> {row.after.tokens.value:.1f}"
        shares = [f"{100 * row.useful:.0f}", f"{100 * row.replayed:.0f}", f"{row.seconds:.0f}"]
        lines.append([name, row.before.accuracy.percent(), row.after.accuracy.percent(), skipped, tokens, *shares])
    return align_columns(lines)


def _search(seed: int, folder: Path) -> Record:
    """Compare Socratic-MCTS with first answers and a vote of equal cost, on the start model. Return the numbers."""
    recipe = load_recipe(SEARCH, [f"seed={seed}"])
    _, held_out = load_all_problems(recipe)
    job = Job(recipe, held_out, None, folder / "socratic", "")
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.evaluation.sampling)
    results = compute_results(run_evaluation(job, lambda: policy, resume=False), job.strategies)
    print_result(f"Socratic-MCTS at test time, with the start model\n\n{tables('tiny-shapes', results)}")
    found: Record = asdict(results.suites["shapes"])
    return found
