"""Does a second look help a real model? Answers to GSM8K problems by several strategies, with intervals.

    PYTHONPATH=benchmarks python benchmarks/real/answers.py MODEL --data FOLDER [--limit 60] [--minutes 20]

FOLDER has gsm8k/test.parquet (tests/README.md); `--on math500` takes another suite of `rethink eval`. First answers are
sampled as in the ThinkTwice paper (temperature 0.7, top-p 0.8, top-k 20), refinements greedily. All strategies share their
first answers, and votes of two and three show what a refinement's tokens are worth. With `evaluation.n=2` there are two
attempts at each problem, and the rows have the fix and damage rates that fresh answers would have (docs/evaluation.md).

Answers are appended to OUT/answers.jsonl batch by batch. The same command continues a stopped one, also with a higher
`--limit`. After each batch, the rows of benchmarks/results/real.csv for this model and these problems are replaced. The
tables that are printed at the end are those of `rethink eval`, then the rows as markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

from real.answer_rows import KEY, markdown_table, rows_of
from real.result_files import RESULTS, processor, replace_rows
from rethink.commands.evaluate import open_policy, open_setup, origin_of_weights, resolve
from rethink.commands.tables import tables
from rethink.evaluation.answers import read_answers
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.results import EvaluationResult, compute_results
from rethink.jsonl import make_folder
from rethink.lock import Lock
from rethink.problems.answer_format import read_after
from rethink.problems.source import load_problems
from rethink.recipe import Recipe, add_new_defaults, to_toml
from rethink.run_folder import RunFolder
from rethink.strategies import Setup, parse_all

STRATEGIES = "solve,refine,vote:2,vote:3"
FILE = RESULTS / "real.csv"


class TimeIsUp(Exception):
    """Ends an evaluation between two batches."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file, a folder or a run")
    parser.add_argument("settings", nargs="*", help="settings of a recipe, as key=value")
    parser.add_argument("--on", default="gsm8k", help="the suite")
    parser.add_argument("--data", default="", help="the folder that has the suite, as SUITE/test.parquet")
    parser.add_argument("--limit", type=int, default=60, help="the number of problems, from the start")
    parser.add_argument("--strategies", default=STRATEGIES)
    parser.add_argument("--batch", type=int, default=20, help="problems that are answered together")
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no batch after so many minutes")
    parser.add_argument("--out", type=Path, help="the folder of the answers (default: runs/real/MODEL-SUITE)")
    parser.add_argument("--csv", type=Path, default=FILE)
    given = parser.parse_intermixed_args(arguments)
    recipe = make_recipe(given)
    name = Path(given.model).name
    folder = given.out or Path("runs/real") / f"{name}-{given.on}"
    prepare(folder, recipe)
    about = {"date": str(date.today()), "processor": processor(), "model": name, "weights": weights_of(recipe)}

    def save() -> EvaluationResult:
        result = result_of(folder, recipe)
        replace_rows(given.csv, rows_of(result, about, recipe), KEY)
        return result

    with Lock(folder, print):
        policy = open_policy(recipe)
        about["dtype"] = str(getattr(policy, "dtype", "")).removeprefix("torch.")
        n_done = answer(folder, open_setup(recipe, policy), recipe, given, save)
    result = save()
    print(tables(f"{name} ({about['weights']})", result), end="\n\n")
    print(markdown_table(rows_of(result, about, recipe)))
    if n_done < given.limit:
        print(f"\n{n_done} of {given.limit} problems are done; the same command continues")


def make_recipe(given: argparse.Namespace) -> Recipe:
    """Return the settings, without those that may change when an evaluation is continued."""
    settings = [f"evaluation.strategy={given.strategies}"]
    settings += [f"evaluation.problems.data={given.data}"] if given.data else []
    settings += ["evaluation.n=1", "evaluation.k=[]", "sampler.cache_gib=0"]
    for part in ("sampling", "refine_sampling"):
        settings.append(f"evaluation.{part}.max_tokens={given.max_tokens}")
    return resolve(given.model, [given.on], [*settings, *given.settings], "thinktwice-protocol")


def prepare(folder: Path, recipe: Recipe) -> None:
    """Make the folder of the answers. Raise UserError if it has answers with other settings."""
    if (folder / "config.toml").exists():
        RunFolder(folder).check_settings(to_toml(recipe), add_new_defaults)
    else:
        make_folder(folder)
        RunFolder(folder).create(to_toml(recipe))


def answer(folder: Path, setup: Setup, recipe: Recipe, given: argparse.Namespace, save: Callable[[], object]) -> int:
    """Answer the problems that have no answers yet, until the time is up. Return the number of problems done."""
    source = recipe.evaluation.problems
    assert source is not None
    problems = read_after(load_problems(source, recipe.seed, "test"), recipe.model.thinking)[: given.limit]
    spec = EvaluationSpec(problems, parse_all(recipe.evaluation.strategy), recipe.evaluation.n)
    spec = replace(spec, batch=given.batch * spec.repeats * spec.n_solve)
    file = resumable_answers(folder / "answers.jsonl")
    start, n_done = time.monotonic(), 0

    def after_batch(n: int) -> None:
        nonlocal n_done
        n_done = n
        print(f"{n} of {len(problems)} problems, {time.monotonic() - start:.0f} s", flush=True)
        save()
        if time.monotonic() - start > 60 * given.minutes:
            raise TimeIsUp

    with suppress(TimeIsUp):
        run_evaluation(setup, spec, file, after_batch)
    return n_done


def result_of(folder: Path, recipe: Recipe) -> EvaluationResult:
    """Return all numbers of the answers so far."""
    return compute_results(read_answers(folder / "answers.jsonl"), parse_all(recipe.evaluation.strategy))


def weights_of(recipe: Recipe) -> str:
    return origin_of_weights(recipe, recipe.model.path) or "original weights"


if __name__ == "__main__":
    main()
