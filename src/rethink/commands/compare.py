"""`rethink compare`: one evaluation minus another. `rethink cross`: every model refines every model's drafts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rethink.commands.console import align_columns, new_folder, print_note, print_result
from rethink.commands.evaluate import Job, open_policy, resolve, run, warn_of_repeats
from rethink.errors import UserError
from rethink.evaluation.answers import FILE, Answer, by_suite, read_answers
from rethink.evaluation.compare import Comparison
from rethink.evaluation.compare import compare as compare_answers
from rethink.evaluation.drafts import drafts_from_answers
from rethink.evaluation.evaluate import Drafts
from rethink.evaluation.intervals import Estimate, macro_average, rate
from rethink.evaluation.summary import final_pass_outcomes
from rethink.jsonl import Record, make_folder, to_json, write_text
from rethink.problems.source import GENERATORS, load_problems
from rethink.problems.suites import GROUPS, find_suite
from rethink.recipe import Recipe
from rethink.strategies import parse, parse_all
from rethink.types import Problem


def compare(first: Path, second: Path, ks: Sequence[int], out: Path | None) -> None:
    """Print first minus second, and write it as JSON where that is asked for."""
    ours, theirs = (read_run(path) for path in (first, second))
    try:
        found = compare_answers(ours, theirs, ks)
    except UserError as err:
        raise UserError(f"{first} and {second}: {err}") from err
    print_result(
        f"{first} minus {second}, in points, paired by problem, with 95% intervals and p-values\n\n{describe(found)}"
    )
    if out is not None:
        write_text(out, to_json(asdict(found), indent=1) + "\n")


def read_run(path: Path) -> list[Answer]:
    """The answers of an evaluation's folder, of a training run's last evaluation, or of a file."""
    candidates = [path, path / FILE, *sorted((path / "eval").glob("*.jsonl"), reverse=True)]
    file = next((c for c in candidates if c.is_file()), None)
    answers = read_answers(file) if file else []
    if not answers:
        old = " that this version can read" if (path / "outcomes.jsonl").exists() else ""
        raise UserError(f"{path} holds no answers of an evaluation{old}")
    return answers


def describe(found: Comparison) -> str:
    """A row per measure and benchmark."""
    lines = [["", "difference", "p", "problems"]]
    for measure, rows in found.differences.items():
        for suite, gap in rows.items():
            lines.append([f"{measure}, {suite}", gap.percent("+"), f"{gap.p:.4f}" if gap.n else "", str(gap.n)])
    left_out = "\nproblems left out, as only one of the two has drafts to them: "
    return align_columns(lines) + (f"{left_out}{found.n_unshared}" if found.n_unshared else "")


def cross(models: Sequence[str], on: Sequence[str], settings: Sequence[str], recipe: str, out: Path | None) -> None:
    """Every model solves, then every model refines every model's drafts; a matrix of the refined pass@n_refine.

    Drafts are refined by the recipe's strategy. Each evaluation has its own folder; those that are there are resumed.
    """
    for name in models:
        if not Path(name).is_dir() and (name in (*GROUPS, *GENERATORS) or find_suite(name)):
            raise UserError(f"{name} is a suite, not a model; several suites go behind one --on, with commas")
    titles = _titles(models)
    resolved = resolve(models[0], on, settings, recipe)
    strategies = parse_all(resolved.evaluation.strategy)
    if len(strategies) > 1 or strategies[0].stages == parse("solve").stages:
        raise UserError(f"drafts are refined by one strategy, such as refine, not {resolved.evaluation.strategy!r}")
    warn_of_repeats(resolved)
    folder = out or new_folder("cross")
    make_folder(folder)
    drafts: dict[str, Path] = {}
    for model in models:
        drafts[model] = _solve(model, on, settings, recipe, folder / f"{titles[model]}-solves")
    cells: dict[tuple[str, str], Estimate] = {}
    for refiner in models:
        for solver in models:
            place = folder / f"{titles[refiner]}-refines-{titles[solver]}"
            cells[solver, refiner] = _refine(refiner, drafts[solver], on, settings, recipe, place)
    lines = [["drafts of \\ refined by", *titles.values()]]
    record: dict[str, dict[str, Record]] = {}
    for solver in models:
        lines.append([titles[solver], *(cells[solver, refiner].percent() for refiner in models)])
        record[titles[solver]] = {titles[refiner]: asdict(cells[solver, refiner]) for refiner in models}
    write_text(folder / "matrix.json", to_json(record, indent=1) + "\n")
    print_result(f"at least one refinement right, in percent, with 95% intervals\n\n{align_columns(lines)}")
    print_note(f"numbers: {folder / 'matrix.json'}; answers: {folder}/*/answers.jsonl")


def _titles(models: Sequence[str]) -> dict[str, str]:
    """A name for folders and tables per model: the last part of its path, or the whole path where two would be alike."""
    for parts in (-1, 0):
        titles = {m: "-".join(Path(m).parts[parts:]).strip("/-") for m in models}
        if len(set(titles.values())) == len(models) > 1:
            return titles
    raise UserError("cross needs two models or more, each of them once")


def _solve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, place: Path) -> Path:
    resolved = resolve(model, on, [*settings, 'evaluation.strategy="solve"'], recipe)
    _run(resolved, _asked(resolved), None, place)
    return place / FILE


def _refine(model: str, drafts: Path, on: Sequence[str], settings: Sequence[str], recipe: str, place: Path) -> Estimate:
    resolved = resolve(model, on, settings, recipe)
    problems, given = drafts_from_answers(drafts, _asked(resolved))
    answers = _run(resolved, problems, given, place)
    is_refined_last = parse(resolved.evaluation.strategy).stages[-1][0] == "refine"
    k = resolved.evaluation.n_refine if is_refined_last else 1
    return macro_average([rate(final_pass_outcomes(some, k)) for some in by_suite(answers).values()])


def _asked(recipe: Recipe) -> list[Problem]:
    assert recipe.evaluation.problems is not None
    return load_problems(recipe.evaluation.problems, recipe.seed, "test")


def _run(recipe: Recipe, problems: list[Problem], drafts: Drafts | None, place: Path) -> list[Answer]:
    print_note(place.name)
    job = Job(recipe, problems, drafts, place, f"--out {shlex.quote(str(place.parent))}")
    job.spec.check()
    return run(job, open_policy(recipe), resume=(place / "config.toml").exists())
