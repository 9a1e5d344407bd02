"""`rethink compare`: one evaluation minus another. `rethink cross`: every model refines every model's drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rethink.commands.console import columns, new_folder, say, show
from rethink.commands.evaluate import Job, open_policy, resolve, run
from rethink.errors import UserError
from rethink.evaluate.answers import Answer, read_answers
from rethink.evaluate.compare import Comparison
from rethink.evaluate.compare import compare as compare_answers
from rethink.evaluate.drafts import own_drafts
from rethink.evaluate.intervals import Estimate, macro, rate
from rethink.evaluate.summary import by_suite, passes
from rethink.folder import make_folder, replace, to_json
from rethink.problems.source import load_problems


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
    note = f"\n{found.n_unshared} problems that only one of them has are left out" if found.n_unshared else ""
    return columns(lines) + note


def cross(models: Sequence[str], on: Sequence[str], settings: Sequence[str], recipe: str, out: Path | None) -> None:
    """Every model solves, then every model refines every model's drafts; a matrix of the refined pass@n_refine.

    Each evaluation has a folder of its own; those that are there already are resumed.
    """
    if len({Path(m).name for m in models}) < len(models) or len(models) < 2:
        raise UserError("cross needs two models or more, with different names")
    folder = out or new_folder("cross")
    make_folder(folder)
    drafts = {model: _solve(model, on, settings, recipe, folder) for model in models}
    cells = {
        (solver, refiner): _refine(solver, refiner, drafts[solver], on, settings, recipe, folder)
        for refiner in models
        for solver in models
    }
    lines = [["drafts of \\ refined by", *(Path(m).name for m in models)]]
    lines += [[Path(s).name, *(cells[s, r].percent() for r in models)] for s in models]
    record = {Path(s).name: {Path(r).name: asdict(cells[s, r]) for r in models} for s in models}
    replace(folder / "matrix.json", to_json(record, indent=1) + "\n")
    show(f"at least one refinement right, in percent, with 95% intervals\n\n{columns(lines)}")
    say(f"numbers: {folder / 'matrix.json'}; answers: {folder}/*/answers.jsonl")


def _solve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path) -> Path:
    place = folder / f"{Path(model).name}-solves"
    resolved = resolve(model, on, [*settings, 'evaluation.strategy="solve"'], recipe)
    assert resolved.evaluation.problems is not None
    problems = load_problems(resolved.evaluation.problems, resolved.seed, "test")
    run(Job(resolved, problems, None, place), open_policy(resolved), (place / "config.toml").exists())
    return place


def _refine(
    solver: str, refiner: str, drafts: Path, on: Sequence[str], settings: Sequence[str], recipe: str, folder: Path
) -> Estimate:
    place = folder / f"{Path(refiner).name}-refines-{Path(solver).name}"
    resolved = resolve(refiner, on, [*settings, 'evaluation.strategy="refine"'], recipe)
    assert resolved.evaluation.problems is not None
    problems = load_problems(resolved.evaluation.problems, resolved.seed, "test")
    problems, given = own_drafts(drafts / "answers.jsonl", problems)
    answers = run(Job(resolved, problems, given, place), open_policy(resolved), (place / "config.toml").exists())
    k = resolved.evaluation.n_refine
    return macro([rate(passes(some, "refine", k)) for some in by_suite(answers).values()])
