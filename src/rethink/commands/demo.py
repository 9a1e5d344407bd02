"""`rethink demo`: train each method from the same model, on the same problems, for as many updates; compare them."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rethink.build import build_prompts, load_all_problems, local_policy, open_model
from rethink.commands.console import new_folder, print_note, print_result, toml_string, warn
from rethink.commands.prepare import prepare as prepare_data
from rethink.commands.train import rate_table, run_with_progress, stopping
from rethink.errors import UserError
from rethink.evaluation.answers import unmeasured
from rethink.evaluation.compare import compare
from rethink.evaluation.comparison import ABOUT_PAIRS, describe
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.fresh import RATES
from rethink.evaluation.intervals import UNDEFINED, Estimate, paired_difference, with_mean_bounds
from rethink.evaluation.outcomes import mostly_unrefined, refined_outcomes, solve_outcomes
from rethink.evaluation.paired import read_pairs
from rethink.evaluation.runs import over_seeds
from rethink.evaluation.stored import load_evaluation
from rethink.evaluation.summary import evaluation_metrics
from rethink.jsonl import Record, make_folder, to_json, write_text
from rethink.recipe import Recipe, load_recipe
from rethink.recipes import shipped
from rethink.run_folder import START
from rethink.training.run import open_run
from rethink.training.update_log import log_evaluation

METHODS = ("grpo", "think_twice")
"""What the demo runs by default, from the model tiny on countdown."""

START_FILE = "start.jsonl"
"""The answers of the start model, beside the folders of the runs."""

_ONE_SEED = (
    "The intervals are over problems: about these models on other problems. They do not cover another seed, which may\n"
    "change the differences by more. To see several: rethink demo --seeds 0,1,2"
)
_SEVERAL_SEEDS = "In the tables of single seeds, intervals are over problems; in the table of means, over seeds."


def read_seeds(text: str) -> list[int]:
    """Return the seeds of a text such as "0,1,2". Raise UserError for anything else, and for one that is there twice."""
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds takes whole numbers with commas, such as 0,1,2, not {text!r}") from None
    if len({*seeds}) < len(seeds):
        raise UserError(f"--seeds has a seed twice: {text}")
    return seeds


def run_demo(seeds: Sequence[int], out: Path | None, updates: int | None, methods: Sequence[str]) -> None:
    """Evaluate the start model, train and evaluate each method, print the table and write summary.json: for each seed, and
    over several seeds.
    """
    folder = out or new_folder("demo")
    folders = {seed: folder if len(seeds) == 1 else folder / f"seed-{seed}" for seed in seeds}
    for path in (folder, *folders.values()):
        if (path / "summary.json").exists():
            raise UserError(f"{path} holds a finished demo; choose another folder with --out DIR")
    names = _order_methods(methods or METHODS)
    if updates is not None and updates % 2:
        warn(f"ThinkTwice makes two updates per problem batch: every run makes {updates + 1}")
    start = time.perf_counter()
    rows: list[dict[str, Record]] = []
    for seed, path in folders.items():
        if len(seeds) > 1:
            print_result(f"seed {seed}\n")
        rows.append(_run_seed(seed, path, names, updates))
    if len(seeds) > 1:
        _finish_seeds(folder, seeds, rows, time.perf_counter() - start)
    print_note(
        f"In percent, on {rows[0]['start']['n_problems']} held-out problems, with 95% intervals.\n"
        "Fix rate: wrong drafts made right; damage rate: right drafts made wrong.\n"
        "Fresh: what these rates would be with a new first answer in place of each refinement.\n"
        f"{_ONE_SEED if len(seeds) == 1 else _SEVERAL_SEEDS}\n"
        f"Numbers: {folder / 'summary.json'}; curves and samples: {folder}{'/*' * (len(seeds) > 1)}/*/report.html"
    )


def _run_seed(seed: int, folder: Path, names: Sequence[str], updates: int | None) -> dict[str, Record]:
    """Run the demo with one seed. Return the rates of each model."""
    signs = bool({*names} - {*METHODS})
    recipes = {name: _load_recipe(name, seed, folder, updates, signs) for name in names}
    first = _load_recipe(METHODS[0], seed, folder, updates, signs)
    start = time.perf_counter()
    rows: dict[str, Record] = {"start": evaluate_start(first, folder / START_FILE)}
    for name, recipe in recipes.items():
        same = _is_evaluated_alike(recipe, first)
        rows[name] = _train(name, recipe, folder, rows["start"] if same else None)
    _write_summary(folder, rows, {"seed": seed}, time.perf_counter() - start)
    print_result(rate_table(rows, extra=("updates", "seconds")))
    if set(METHODS) <= rows.keys():
        print_result(_compare_methods(folder))
    return rows


def _finish_seeds(folder: Path, seeds: Sequence[int], rows: Sequence[dict[str, Record]], seconds: float) -> None:
    """Print the means over seeds and the differences from GRPO, and write summary.json."""
    means: dict[str, Record] = {}
    for name in rows[0]:
        means[name] = mean_over_seeds([row[name] for row in rows])
    print_result(
        f"\nmean over seeds {', '.join(map(str, seeds))}, with 95% intervals over seeds\n\n{rate_table(means)}"
    )
    differences: dict[str, Record] = {}
    for name in means:
        if name not in ("start", "grpo") and "grpo" in means:
            pairs: list[tuple[Path, Path]] = []
            for seed in seeds:
                pairs.append((folder / f"seed-{seed}" / "grpo", folder / f"seed-{seed}" / name))
            found = compare(read_pairs(pairs))
            differences[name] = asdict(found)
            title = f"{name} minus grpo, in points, with 95% intervals and p-values"
            print_result(f"\n{title}\n\n{describe(found)}\n{ABOUT_PAIRS}\n")
    _write_summary(folder, means, {"seeds": [*seeds], "minus_grpo": differences}, seconds)


def mean_over_seeds(rows: Sequence[Record]) -> Record:
    """Return the means of the rates of one model's runs, with intervals over seeds, and what else a table needs."""
    n_not_graded = sum(row["n_not_graded"] for row in rows)
    found: Record = {"updates": rows[0]["updates"], "n_problems": rows[0]["n_problems"], "n_not_graded": n_not_graded}
    for key, value in rows[0].items():
        if isinstance(value, dict) and value.keys() == asdict(UNDEFINED).keys():
            lowest = -1.0 if key == "gain" else 0.0
            found[key] = asdict(_mean([Estimate(**row[key]) for row in rows], lowest))
    return found


def _mean(runs: Sequence[Estimate], lowest: float) -> Estimate:
    """Return the mean with its interval over seeds, cut at the lowest possible value and at 1."""
    mean = over_seeds([run.value for run in runs])
    low, high = mean.low, mean.high
    if not math.isnan(low):
        low, high = max(lowest, low), min(1.0, high)
    return with_mean_bounds(Estimate(mean.value, low, high, mean.n), runs)


def other_methods() -> tuple[str, ...]:
    """Return the methods that have a demo recipe on tiny-signs. With one of them, every method starts from tiny-signs."""
    recipes = {name.removeprefix("demo-").replace("-", "_") for name in shipped() if name.startswith("demo-")}
    on_signs: list[str] = []
    for name in recipes - {*METHODS}:
        if not name.startswith("vision_") and not name.endswith(("_data", "_signs", "_start")):
            on_signs.append(name)
    return tuple(sorted(on_signs))


def _order_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods in the order to run them. GRPO's model is the teacher of methods whose data need one."""
    known = (*METHODS, *other_methods())
    needed = [*methods]
    for name in methods:
        if name not in known:
            raise UserError(f"the demo has the methods {', '.join(known)}, not {name!r}")
        if _data_recipe(name) and load_recipe(_data_recipe(name)).teacher.path:
            needed.append("grpo")
    return [name for name in known if name in needed]


def _data_recipe(name: str) -> str:
    """Return the recipe that prepares a method's data, "" if it needs none."""
    return _recipe_if_any(name, "data")


def _start_recipe(name: str) -> str:
    """Return the recipe of the training that comes before a method's own, "" if there is none."""
    return _recipe_if_any(name, "start")


def _recipe_if_any(name: str, what: str) -> str:
    recipe = f"demo-{name.replace('_', '-')}-{what}"
    return recipe if recipe in shipped() else ""


def _load_recipe(name: str, seed: int, folder: Path, updates: int | None, signs: bool) -> Recipe:
    settings = [f"seed={seed}", f"out={toml_string(str(folder / name))}"]
    recipe = f"demo-{name.replace('_', '-')}"
    if signs:
        settings.append('evaluation.strategy="refine"')  # the recipes have strategies of several kinds
        recipe += "-signs" * (name in METHODS)
    if _start_recipe(name):
        settings.append(f"model.path={toml_string(str(folder / f'{name}-start'))}")
    elif _data_recipe(name):
        settings.append(f"problems.source={toml_string(str(folder / f'{name}.parquet'))}")
    if updates is not None:
        settings.append(f"updates={updates + updates % 2}")
    return load_recipe(recipe, settings)


def evaluate_start(recipe: Recipe, file: Path) -> Record:
    """Evaluate the recipe's start model on its held-out problems. Write the answers to `file`. Return what a run logs of an
    evaluation, and the columns of the table."""
    started = time.perf_counter()
    _, held_out = load_all_problems(recipe)
    settings = recipe.evaluation
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), settings.sampling)
    make_folder(file.parent)
    answers = evaluate(policy, held_out, settings, prompts=build_prompts(recipe, recipe.seed), file=file)
    found = evaluation_metrics(answers, settings.k)
    seconds = time.perf_counter() - started
    alarms = unmeasured(answers) or mostly_unrefined(answers)
    return {**found, "evaluate_s": seconds, "alarms": alarms, "updates": 0, "seconds": round(seconds)}


def _is_evaluated_alike(recipe: Recipe, first: Recipe) -> bool:
    """Return whether a run starts from the model of another recipe, and would evaluate it in the same way."""
    shown = [(one.model, one.evaluation, one.prompts.solve, one.prompts.refine) for one in (recipe, first)]
    return shown[0] == shown[1]


def _train(name: str, recipe: Recipe, folder: Path, start_model: Record | None) -> Record:
    """Train a method and return its row. Its log begins with the evaluation of the start model, if there is one."""
    started = time.perf_counter()
    data = _data_recipe(name)
    if data:
        settings = [f"seed={recipe.seed}"]
        if load_recipe(data).teacher.path:
            settings.append(f"teacher.path={toml_string(str(max((folder / 'grpo' / 'checkpoints').iterdir())))}")
        prepare_data(data, settings, folder / f"{name}.parquet")
    start = _start_recipe(name)
    if start:
        paths = {"out": folder / f"{name}-start", "problems.source": folder / f"{name}.parquet"}
        settings = [f"{key}={toml_string(str(path))}" for key, path in paths.items()]
        n_updates = min(recipe.updates, load_recipe(start).updates)
        cold = load_recipe(start, [*settings, f"seed={recipe.seed}", f"updates={n_updates}"])
        _run(cold, f"{name}, cold start")
    row = _run(recipe, name, start_model)
    return {**row, "seconds": round(time.perf_counter() - started)}


def _run(recipe: Recipe, label: str, start_model: Record | None = None) -> Record:
    """Train, and return the evaluation at the end."""
    run = open_run(recipe, warn=warn)
    if start_model is not None:  # as if the run had made it: it is the same for all methods
        shutil.copyfile(run.folder.path.parent / START_FILE, run.folder.path / START)
        log_evaluation(run, {k: v for k, v in start_model.items() if k not in ("updates", "seconds")})
    with stopping(run):
        evaluation = run_with_progress(run, label=label)
    if run.interrupted or evaluation is None:
        raise UserError(f"the demo was interrupted; the run so far is in {run.folder.path}")
    return {**evaluation, "updates": run.trainer.version}


def _write_summary(folder: Path, rows: dict[str, Record], more: Record, seconds: float) -> None:
    summary: Record = {}
    for name, row in rows.items():
        summary[name] = {}
        for rate in RATES:
            summary[name][rate] = {key: row[rate][key] for key in ("value", "low", "high")}
    summary["updates"] = max(row["updates"] for row in rows.values())
    summary["seconds"] = round(seconds, 1)
    summary["problems"] = rows["start"]["n_problems"]
    write_text(folder / "summary.json", to_json(summary | more, indent=1) + "\n")


def _compare_methods(folder: Path) -> str:
    """Return ThinkTwice minus GRPO on the same problems, from the answers of both."""
    grpo, think_twice = (load_evaluation(folder / name).answers for name in METHODS)
    before = paired_difference(solve_outcomes(think_twice), solve_outcomes(grpo)).percent("+")
    after = paired_difference(refined_outcomes(think_twice), refined_outcomes(grpo)).percent("+")
    return f"ThinkTwice minus GRPO, in points, paired by problem: solve {before}, refined {after}"
