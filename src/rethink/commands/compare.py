"""`rethink compare`: one evaluation minus another. `rethink cross`: every model refines every model's drafts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rethink.commands.console import columns, new_folder, say, show
from rethink.commands.evaluate import Job, open_policy, resolve, run, warn_of_repeats
from rethink.errors import UserError
from rethink.evaluate.answers import Answer, read_answers
from rethink.evaluate.compare import Comparison
from rethink.evaluate.compare import compare as compare_answers
from rethink.evaluate.drafts import own_drafts
from rethink.evaluate.intervals import Estimate, macro, rate
from rethink.evaluate.summary import by_suite, passes
from rethink.jsonl import make_folder, replace, to_json
from rethink.problems.source import GENERATORS, load_problems
from rethink.problems.suites import GROUPS, find_suite
from rethink.recipe import Recipe
from rethink.types import Problem


def compare(first: Path, second: Path, ks: Sequence[int], out: Path | None) -> None:
    """Print first minus second, and write it as JSON where that is asked for."""
    ours, theirs = (read_run(path) for path in (first, second))
    try:
        found = compare_answers(ours, theirs, ks)
    except ValueError as err:
        raise UserError(f"{first} and {second}: {err}") from err
    show(f"{first} minus {second}, in points, paired by problem, with 95% intervals and p-values\n\n{describe(found)}")
    if out is not None:
        replace(out, to_json(asdict(found), indent=1) + "\n")


def read_run(path: Path) -> list[Answer]:
    """The answers of an evaluation's folder, of a training run's last evaluation, or of a file."""
    candidates = [path, path / "answers.jsonl", *sorted((path / "eval").glob("*.jsonl"), reverse=True)]
    file = next((c for c in candidates if c.is_file()), None)
    answers = read_answers(file) if file else []
    if not answers:
        raise UserError(f"{path} holds no answers of an evaluation")
    return answers


def describe(found: Comparison) -> str:
    """A row per measure and benchmark."""
    lines = [["", "difference", "p", "problems"]]
    for measure, rows in found.differences.items():
        for suite, gap in rows.items():
            lines.append([f"{measure}, {suite}", gap.percent("+"), f"{gap.p:.4f}" if gap.n else "", str(gap.n)])
    note = (
        f"\nproblems left out, as only one of the two has drafts to them: {found.n_unshared}"
        if found.n_unshared
        else ""
    )
    return columns(lines) + note


def cross(models: Sequence[str], on: Sequence[str], settings: Sequence[str], recipe: str, out: Path | None) -> None:
    """Every model solves, then every model refines every model's drafts; a matrix of the refined pass@n_refine.

    Each evaluation has a folder of its own; those that are there already are resumed.
    """
    for name in models:
        if not Path(name).is_dir() and (name in (*GROUPS, *GENERATORS) or find_suite(name)):
            raise UserError(f"{name} is a suite, not a model; several suites go behind one --on, with commas")
    titles = _titles(models)
    warn_of_repeats(resolve(models[0], on, settings, recipe))
    folder = out or new_folder("cross")
    make_folder(folder)
    drafts = {m: _solve(m, on, settings, recipe, folder / f"{titles[m]}-solves") for m in models}
    cells: dict[tuple[str, str], Estimate] = {}
    for refiner in models:
        for solver in models:
            place = folder / f"{titles[refiner]}-refines-{titles[solver]}"
            cells[solver, refiner] = _refine(refiner, drafts[solver], on, settings, recipe, place)
    lines = [["drafts of \\ refined by", *titles.values()]]
    lines += [[titles[s], *(cells[s, r].percent() for r in models)] for s in models]
    record = {titles[s]: {titles[r]: asdict(cells[s, r]) for r in models} for s in models}
    replace(folder / "matrix.json", to_json(record, indent=1) + "\n")
    show(f"at least one refinement right, in percent, with 95% intervals\n\n{columns(lines)}")
    say(f"numbers: {folder / 'matrix.json'}; answers: {folder}/*/answers.jsonl")


def _titles(models: Sequence[str]) -> dict[str, str]:
    """A name for folders and tables per model: the last part of its path, or the whole path where two would be alike."""
    for parts in (-1, 0):
        titles = {m: "-".join(Path(m).parts[parts:]).strip("/-") for m in models}
        if len(set(titles.values())) == len(models) > 1:
            return titles
    raise UserError("cross needs two models or more, each of them once")


def _solve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, place: Path) -> Path:
    resolved = resolve(model, on, [*settings, 'evaluation.strategy="solve"'], recipe)
    _run(Job(resolved, _asked(resolved), None, place, f"--out {shlex.quote(str(place.parent))}"))
    return place / "answers.jsonl"


def _refine(model: str, drafts: Path, on: Sequence[str], settings: Sequence[str], recipe: str, place: Path) -> Estimate:
    resolved = resolve(model, on, [*settings, 'evaluation.strategy="refine"'], recipe)
    problems, given = own_drafts(drafts, _asked(resolved))
    answers = _run(Job(resolved, problems, given, place, f"--out {shlex.quote(str(place.parent))}"))
    k = resolved.evaluation.n_refine
    return macro([rate(passes(some, "refine", k)) for some in by_suite(answers).values()])


def _asked(recipe: Recipe) -> list[Problem]:
    assert recipe.evaluation.problems is not None
    return load_problems(recipe.evaluation.problems, recipe.seed, "test")


def _run(job: Job) -> list[Answer]:
    say(job.folder.name)
    return run(job, open_policy(job.recipe), resume=(job.folder / "config.toml").exists())
