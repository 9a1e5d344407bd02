"""`rethink compare`: subtract one evaluation from another. `rethink cross`: let every model refine every model's drafts."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rethink.commands.console import align_columns, new_folder, print_note, print_result, warn
from rethink.commands.evaluate import Job, open_policy, resolve, run, warn_of_repeats
from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_suite, read_answers
from rethink.evaluation.bounds import ACCURACY_NOTE, NOTE, bounded_rate, open_signs
from rethink.evaluation.compare import Comparison
from rethink.evaluation.compare import compare as compare_answers
from rethink.evaluation.drafts import drafts_from_answers
from rethink.evaluation.evaluate import Drafts
from rethink.evaluation.intervals import Difference, Estimate, macro_average
from rethink.evaluation.outcomes import final_pass_outcomes
from rethink.evaluation.unchanged import ANSWERS_FILE
from rethink.jsonl import Record, make_folder, to_json, write_text
from rethink.lock import Lock
from rethink.problems.answer_format import read_after
from rethink.problems.source import GENERATORS, load_problems
from rethink.problems.suites import GROUPS, find_suite
from rethink.recipe import Recipe
from rethink.strategies import parse, parse_all
from rethink.types import Problem


def compare(before: Path, after: Path, ks: Sequence[int], out: Path | None) -> None:
    """Print the second evaluation minus the first; write the numbers as JSON to `out`, if given."""
    theirs, ours = (read_run(path) for path in (before, after))
    try:
        found = compare_answers(ours, theirs, ks)
    except UserError as err:
        raise UserError(f"{before} and {after}: {err}") from err
    title = f"{after} minus {before}, in points, paired by problem, with 95% intervals and p-values"
    lines = [f"{title}\n\n{describe(found)}"]
    for path, n in zip((after, before), found.n_not_graded, strict=True):
        if n:
            lines.append(f"replies in {path} that were not graded, and are left out: {n}")
    gaps: dict[str, Difference | None] = {}
    for measure, rows in found.differences.items():
        gaps |= {f"{measure}, {suite}": gap for suite, gap in rows.items()}
    lines += filter(None, [NOTE if any(found.n_not_graded) else "", open_signs(gaps)])
    print_result("\n".join(lines))
    if out is not None:
        write_text(out, to_json(asdict(found), indent=1) + "\n")


def read_run(path: Path) -> list[Answer]:
    """Return the answers of an evaluation's folder, of a training run's last evaluation, or of a file."""
    candidates = [path, path / ANSWERS_FILE, *sorted((path / "eval").glob("*.jsonl"), reverse=True)]
    file = next((c for c in candidates if c.is_file()), None)
    answers = read_answers(file) if file else []
    if not answers:
        note = " that this version can read" if (path / "outcomes.jsonl").exists() else ""
        raise UserError(f"{path} holds no answers of an evaluation{note}")
    return answers


def describe(found: Comparison) -> str:
    """Return a table with a row per measure and benchmark."""
    lines = [["", "difference", "p", "problems"]]
    for measure, rows in found.differences.items():
        for suite, gap in rows.items():
            lines.append([f"{measure}, {suite}", gap.percent("+"), _p(gap.p), str(gap.n)])
    left_out = f"\nproblems left out because only one of the two has answers: {found.n_unshared}"
    return align_columns(lines) + (left_out if found.n_unshared else "")


def _p(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def cross(models: Sequence[str], on: Sequence[str], settings: Sequence[str], recipe: str, out: Path | None) -> None:
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
    with Lock(folder, warn):
        _fill_matrix(titles, on, settings, recipe, folder)


def _fill_matrix(titles: dict[str, str], on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path) -> None:
    """Run the evaluations that the folder lacks, and write and print the matrix. `titles`: a title for each model."""
    models = list(titles)
    drafts: dict[str, Path] = {}
    for model in models:
        drafts[model] = _solve(model, on, settings, recipe, folder / f"{titles[model]}-solves")
    cells: dict[tuple[str, str], Estimate] = {}
    note = ""
    for refiner in models:
        for solver in models:
            cell = folder / f"{titles[refiner]}-refines-{titles[solver]}"
            found = cells[solver, refiner] = _refine(refiner, drafts[solver], on, settings, recipe, cell)
            note = note if found.at_least is None else f"\n{ACCURACY_NOTE}"
    lines = [["drafts of \\ refined by", *titles.values()]]
    record: dict[str, dict[str, Record]] = {}
    for solver in models:
        lines.append([titles[solver], *(cells[solver, refiner].percent() for refiner in models)])
        record[titles[solver]] = {titles[refiner]: asdict(cells[solver, refiner]) for refiner in models}
    write_text(folder / "matrix.json", to_json(record, indent=1) + "\n")
    title = "at least one refinement right, in percent, with 95% intervals"
    print_result(f"{title}\n\n{align_columns(lines)}{note}")
    print_note(f"numbers: {folder / 'matrix.json'}; answers: {folder}/*/answers.jsonl")


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


def _refine(
    model: str, drafts: Path, on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path
) -> Estimate:
    resolved = resolve(model, on, settings, recipe)
    problems, given = drafts_from_answers(drafts, _recipe_problems(resolved))
    answers = _run(resolved, problems, given, folder)
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
    return run(job, open_policy(recipe), resume=(folder / "config.toml").exists())
