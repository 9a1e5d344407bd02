"""`rethink demo`: train each method from the same model, on the same problems, for as many updates; compare them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rethink.build import build_prompts, load_all_problems, local_policy, open_model
from rethink.commands.console import new_folder, print_note, print_result, toml_string, warn
from rethink.commands.prepare import prepare as prepare_data
from rethink.commands.train import rate_table, run_with_progress, stopping
from rethink.errors import UserError
from rethink.evaluation.answers import read_answers
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.intervals import paired_difference
from rethink.evaluation.outcomes import refined_outcomes, solve_outcomes
from rethink.evaluation.summary import evaluation_metrics
from rethink.jsonl import Record, make_folder, to_json, write_text
from rethink.recipe import Recipe, load_recipe
from rethink.report.page import write_report
from rethink.training.run import open_run

METHODS = ("grpo", "think_twice")
"""What the demo runs by default."""

OTHERS = ("reflect_retry_reward", "think_tuning", "gsr")
"""Methods whose prompts the model tiny does not know. With one of them, every method starts from tiny-talk."""


def run_demo(seed: int, out: Path | None, updates: int | None, methods: Sequence[str]) -> None:
    """Evaluate the start model, train and evaluate each method, print the table and write summary.json."""
    folder = out or new_folder("demo")
    if (folder / "summary.json").exists():
        raise UserError(f"{folder} holds a finished demo; choose another folder with --out DIR")
    names = _order_methods(methods or METHODS)
    recipes = {name: _load_recipe(name, seed, folder, updates, talk=bool({*names} & {*OTHERS})) for name in names}
    start = time.perf_counter()
    rows: dict[str, Record] = {"start": evaluate_start(recipes[names[0]], folder / "start.jsonl")}
    for name, recipe in recipes.items():
        rows[name] = _train(name, recipe, folder)
    _write_summary(folder, rows, seed, time.perf_counter() - start)
    print_result(rate_table(rows, extra=("updates", "seconds")))
    if set(METHODS) <= rows.keys():
        print_result(_compare_methods(folder))
    print_note(
        f"In percent, on {rows['start']['n_problems']} held-out problems, with 95% intervals.\n"
        "Fix rate: wrong drafts made right; damage rate: right drafts made wrong.\n"
        f"Numbers: {folder / 'summary.json'}; curves and samples: {folder}/*/report.html"
    )


def _order_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods in the order to run them. GSR needs the GRPO model as its teacher."""
    for name in methods:
        if name not in (*METHODS, *OTHERS):
            raise UserError(f"the demo has the methods {', '.join((*METHODS, *OTHERS))}, not {name!r}")
    needed = [*methods, "grpo"] if "gsr" in methods else methods
    return [name for name in (*METHODS, *OTHERS) if name in needed]


def _load_recipe(name: str, seed: int, folder: Path, updates: int | None, talk: bool) -> Recipe:
    settings = [f"seed={seed}", f"out={toml_string(str(folder / name))}"]
    settings += ['model.path="tiny-talk"'] if talk else []
    if name == "gsr":
        settings.append(f"problems.source={toml_string(str(folder / 'gsr.parquet'))}")
    if updates is not None:
        settings.append(f"updates={updates + updates % 2}")
        if updates % 2:
            warn(f"ThinkTwice makes two updates per problem batch: every run makes {updates + 1}")
    return load_recipe(f"demo-{name.replace('_', '-')}", settings)


def evaluate_start(recipe: Recipe, file: Path) -> Record:
    """Evaluate the recipe's start model on its held-out problems. Write the answers to `file`."""
    started = time.perf_counter()
    _, held_out = load_all_problems(recipe)
    settings = recipe.evaluation
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), settings.sampling)
    make_folder(file.parent)
    answers = evaluate(policy, held_out, settings, prompts=build_prompts(recipe, recipe.seed), file=file)
    return {**evaluation_metrics(answers), "updates": 0, "seconds": round(time.perf_counter() - started)}


def _train(name: str, recipe: Recipe, folder: Path) -> Record:
    started = time.perf_counter()
    if name == "gsr":
        teacher = max((folder / "grpo" / "checkpoints").iterdir())
        settings = [f"seed={recipe.seed}", f"teacher.path={toml_string(str(teacher))}"]
        prepare_data("demo-gsr-data", settings, folder / "gsr.parquet")
    run = open_run(recipe, warn=warn)
    with stopping(run):
        evaluation = run_with_progress(run, label=name)
    if run.interrupted or evaluation is None:
        raise UserError(f"the demo was interrupted; the run so far is in {run.folder.path}")
    write_report(run.folder)
    return {**evaluation, "updates": run.trainer.version, "seconds": round(time.perf_counter() - started)}


def _write_summary(folder: Path, rows: dict[str, Record], seed: int, seconds: float) -> None:
    summary: Record = {}
    for name, row in rows.items():
        summary[name] = {}
        for rate in ("solve", "refined", "fix", "damage"):
            summary[name][rate] = {key: row[rate][key] for key in ("value", "low", "high")}
    summary["updates"] = max(row["updates"] for row in rows.values())
    summary["seconds"] = round(seconds, 1)
    summary["seed"] = seed
    summary["problems"] = rows["start"]["n_problems"]
    write_text(folder / "summary.json", to_json(summary, indent=1) + "\n")


def _compare_methods(folder: Path) -> str:
    """Return ThinkTwice minus GRPO on the same problems, from the answers of both."""
    grpo, think_twice = (read_answers(max((folder / name / "eval").glob("*.jsonl"))) for name in METHODS)
    before = paired_difference(solve_outcomes(think_twice), solve_outcomes(grpo)).percent("+")
    after = paired_difference(refined_outcomes(think_twice), refined_outcomes(grpo)).percent("+")
    return f"ThinkTwice minus GRPO, in points, paired by problem: solve {before}, refined {after}"
