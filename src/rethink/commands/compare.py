"""`rethink compare`: subtract one evaluation from another. `rethink cross`: let every model refine every model's drafts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rethink.commands.console import new_folder, print_json, print_note, print_result, warn
from rethink.commands.evaluate import (
    Job,
    n_drafts_needed,
    open_policy,
    origin_of_weights,
    resolve,
    run,
    warn_of_repeats,
)
from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_suite
from rethink.evaluation.bounds import ACCURACY_NOTE, bounded_rate
from rethink.evaluation.compare import check_runs_differ
from rethink.evaluation.compare import compare as compare_answers
from rethink.evaluation.drafts import drafts_from_answers
from rethink.evaluation.evaluate import Drafts
from rethink.evaluation.intervals import Estimate, macro_average
from rethink.evaluation.outcomes import final_pass_outcomes
from rethink.evaluation.paired import read_pairs
from rethink.evaluation.unchanged import ANSWERS_FILE
from rethink.jsonl import Record, make_folder, to_json, write_text
from rethink.lock import Lock
from rethink.printable import align_columns
from rethink.problems.answer_format import read_after
from rethink.problems.source import GENERATORS, load_problems
from rethink.problems.suites import GROUPS, find_suite
from rethink.recipe import Recipe
from rethink.strategies import parse, parse_all
from rethink.types import Problem


def compare(
    pairs: Sequence[tuple[Path, Path]],
    ks: Sequence[int],
    out: Path | None,
    metrics: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Print the second evaluation of each pair minus the first, as tables or as JSON; write the JSON to `out`, if given.

    `metrics` are the scores that stand for verdicts in the logs of other tools.
    """
    runs = read_pairs(pairs, metrics)
    check_runs_differ(runs)
    found = compare_answers(runs, ks)
    if as_json:
        print_json(asdict(found))
    else:
        print_result(str(found))
    if out is not None:
        write_text(out, to_json(asdict(found), indent=1) + "\n")


def cross(
    models: Sequence[str],
    on: Sequence[str],
    settings: Sequence[str],
    recipe: str,
    out: Path | None,
    as_json: bool = False,
) -> None:
    """Let every model solve, then refine every model's drafts, and print the matrix of the refined pass@n_refine.

    The recipe's strategy refines the drafts. Each evaluation has its own folder; existing ones are resumed.
    """
    for name in models:
        if not Path(name).is_dir() and (name in (*GROUPS, *GENERATORS) or find_suite(name)):
            raise UserError(f"{name} is a suite, not a model; give several suites to --on, with commas")
    titles = _titles(models)
    resolved = resolve(models[0], on, settings, recipe)
    strategies = parse_all(resolved.evaluation.strategy)
    if len(strategies) > 1 or strategies[0].stages == parse("solve").stages:
        raise UserError(f"cross needs one strategy that refines, such as refine, not {resolved.evaluation.strategy!r}")
    warn_of_repeats(resolved)
    folder = out or new_folder("cross")
    make_folder(folder)
    weights: dict[str, str] = {}
    for model, title in titles.items():
        if origin := origin_of_weights(resolved, model):
            weights[title] = origin
    with Lock(folder, warn):
        matrix, text = _fill_matrix(titles, on, settings, recipe, folder)
    if as_json:
        print_json({"folder": str(folder), "weights": weights, "matrix": matrix})
    else:
        print_result("\n".join([text, *(f"{title}: {origin}" for title, origin in weights.items())]))
    print_note(f"numbers: {folder / 'matrix.json'}; answers: {folder}/*/answers.jsonl")


def _fill_matrix(
    titles: dict[str, str], on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path
) -> tuple[Record, str]:
    """Run the evaluations that the folder lacks, and write the matrix. Return it as in matrix.json, and as a table.

    `titles`: a title for each model."""
    models = list(titles)
    drafts: dict[str, Path] = {}
    for model in models:
        drafts[model] = _solve(model, on, settings, recipe, folder / f"{titles[model]}-solves")
    given = _shared_drafts(drafts, resolve(models[0], on, settings, recipe))
    cells: dict[tuple[str, str], Estimate] = {}
    note = ""
    for refiner in models:
        for solver in models:
            cell = folder / f"{titles[refiner]}-refines-{titles[solver]}"
            found = cells[solver, refiner] = _refine(refiner, given[solver], on, settings, recipe, cell)
            note = note if found.at_least is None else f"\n{ACCURACY_NOTE}"
    lines = [["drafts of \\ refined by", *titles.values()]]
    record: dict[str, dict[str, Record]] = {}
    for solver in models:
        lines.append([titles[solver], *(cells[solver, refiner].percent() for refiner in models)])
        record[titles[solver]] = {titles[refiner]: asdict(cells[solver, refiner]) for refiner in models}
    write_text(folder / "matrix.json", to_json(record, indent=1) + "\n")
    title = "at least one refinement right, in percent, with 95% intervals"
    return record, f"{title}\n\n{align_columns(lines)}{note}"


def _titles(models: Sequence[str]) -> dict[str, str]:
    """Return a title per model, for folders and tables: the last part of its path, or the whole path if two are equal."""
    for parts in (-1, 0):
        titles = {m: "-".join(Path(m).parts[parts:]).strip("/-") for m in models}
        if len(set(titles.values())) == len(models) > 1:
            return titles
    raise UserError("cross needs at least two different models")


def _solve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path) -> Path:
    resolved = resolve(model, on, [*settings, 'evaluation.strategy="solve"'], recipe)
    _run(resolved, _recipe_problems(resolved), None, folder)
    return folder / ANSWERS_FILE


def _shared_drafts(files: Mapping[str, Path], recipe: Recipe) -> dict[str, Drafts]:
    """Return the drafts of each model, of the problems of which all have enough: the cells of the matrix are about the same
    ones. Raise UserError if there is none."""
    problems, n = _recipe_problems(recipe), n_drafts_needed(recipe)
    found: dict[str, Drafts] = {}
    for model, file in files.items():
        found[model] = drafts_from_answers(file, problems)[1]
    shared: set[str] = set()
    for problem in problems:
        if all(len(drafts.get(problem.id, ())) >= n for drafts in found.values()):
            shared.add(problem.id)
    if not shared:
        raise UserError(f"there is no problem of which each model has {n} drafts that its server did not fail to give")
    if len(shared) < len(problems):
        warn(f"{len(problems) - len(shared)} of {len(problems)} problems lack drafts of a model, and are left out")
    for model, drafts in found.items():
        found[model] = {ident: drafts[ident] for ident in drafts.keys() & shared}
    return found


def _refine(
    model: str, drafts: Drafts, on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path
) -> Estimate:
    resolved = resolve(model, on, settings, recipe)
    problems = [problem for problem in _recipe_problems(resolved) if problem.id in drafts]
    answers = _run(resolved, problems, drafts, folder)
    ends_with_refine = parse(resolved.evaluation.strategy).stages[-1][0] == "refine"
    k = resolved.evaluation.n_refine if ends_with_refine else 1
    rates = [bounded_rate(partial(final_pass_outcomes, of_suite, k)) for of_suite in by_suite(answers).values()]
    return macro_average(rates)


def _recipe_problems(recipe: Recipe) -> list[Problem]:
    assert recipe.evaluation.problems is not None
    return read_after(load_problems(recipe.evaluation.problems, recipe.seed, "test"), recipe.model.thinking)


def _run(recipe: Recipe, problems: list[Problem], drafts: Drafts | None, folder: Path) -> list[Answer]:
    print_note(folder.name)
    job = Job(recipe, problems, drafts, folder, f"--out {shlex.quote(str(folder.parent))}")
    job.spec.check()
    return run(job, partial(open_policy, recipe), resume=(folder / "config.toml").exists())
