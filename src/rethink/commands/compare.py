"""`rethink compare`: subtract one evaluation from another. `rethink cross`: let every model refine every model's drafts."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

from rethink.commands.console import align_columns, new_folder, print_json, print_note, print_result, warn
from rethink.commands.evaluate import Job, open_policy, origin_of_weights, resolve, run, warn_of_repeats
from rethink.errors import UserError
from rethink.evaluation.answers import Answer, by_suite
from rethink.evaluation.bounds import ACCURACY_NOTE, NOTE, bounded_rate, open_signs
from rethink.evaluation.compare import OUR_TOOL, Comparison, Evaluation, Pair, check_runs_differ
from rethink.evaluation.compare import compare as compare_answers
from rethink.evaluation.drafts import drafts_from_answers
from rethink.evaluation.evaluate import Drafts
from rethink.evaluation.intervals import Difference, Estimate, macro_average
from rethink.evaluation.other_tools import find_log
from rethink.evaluation.other_tools.align import align
from rethink.evaluation.other_tools.answers import answers_of
from rethink.evaluation.outcomes import final_pass_outcomes
from rethink.evaluation.stored import load_evaluation
from rethink.evaluation.unchanged import ANSWERS_FILE
from rethink.jsonl import Record, make_folder, to_json, write_text
from rethink.lock import Lock
from rethink.problems.answer_format import read_after
from rethink.problems.source import GENERATORS, load_problems
from rethink.problems.suites import GROUPS, find_suite
from rethink.recipe import Recipe
from rethink.strategies import parse, parse_all
from rethink.types import Problem

_NO_OTHER_SEED = (
    "The intervals are over problems: about these two evaluations on other problems. They do not cover another training "
    "seed; give more runs of each method with --pair BEFORE AFTER."
)
ABOUT_PAIRS = (
    "over problems: all pairs together; the interval is about these models on other problems\n"
    "over seeds: the mean of the pairs; the interval is about these methods with other seeds, on these problems\n"
    "Call the methods different only where neither interval contains 0. Two pairs are too few to be sure; use about five."
)


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
    about = _NO_OTHER_SEED if len(pairs) == 1 else ABOUT_PAIRS
    if as_json:
        print_json(asdict(found))
    else:
        print_result("\n".join([_title(found), "", describe(found), about, *_left_out(found)]))
    if out is not None:
        write_text(out, to_json(asdict(found), indent=1) + "\n")


def read_pairs(pairs: Sequence[tuple[Path, Path]], metrics: Sequence[str] = ()) -> list[Pair]:
    """Return the evaluations of pairs (before, after); each path is read once."""
    paths = list(dict.fromkeys(chain.from_iterable(pairs)))
    evaluations = [read_evaluation(path, metrics) for path in paths]
    if metrics and {evaluation.tool for evaluation in evaluations} == {OUR_TOOL}:
        raise UserError(f"--metric {' '.join(metrics)} has no effect: it names a score in the logs of other tools")
    read = dict(zip(paths, align(evaluations), strict=True))
    found: list[Pair] = []
    for before, after in pairs:
        found.append((read[after], read[before]))
    return found


def read_evaluation(path: Path, metrics: Sequence[str] = ()) -> Evaluation:
    """Return an evaluation of ours or of another tool."""
    log = find_log(path)
    if log is None:
        return Evaluation(str(path), load_evaluation(path).answers)
    return Evaluation(str(path), answers_of(log, metrics), log.name)


def _left_out(found: Comparison) -> list[str]:
    """Return lines about problems, strategies and replies that do not count, and what they leave open."""
    lines: list[str] = []
    if found.n_unshared:
        lines.append(f"problems left out because some of the evaluations have no answers: {found.n_unshared}")
    if found.left_out:
        lines.append(f"strategies left out because some of the evaluations lack them: {', '.join(found.left_out)}")
    n_not_graded: dict[str, int] = {}
    for pair in found.pairs:
        n_not_graded |= dict(zip((pair.after, pair.before), pair.n_not_graded, strict=True))
    for name, n in n_not_graded.items():
        if n:
            lines.append(f"replies in {name} that were not graded, and are left out: {n}")
    gaps: dict[str, Difference | None] = {}
    for measure, rows in found.differences.items():
        gaps |= {f"{measure}, {suite}": gap for suite, gap in rows.items()}
    return lines + [line for line in (NOTE if any(n_not_graded.values()) else "", open_signs(gaps)) if line]


def _title(found: Comparison) -> str:
    """Return what is compared."""
    if len(found.pairs) == 1:
        (pair,) = found.pairs
        return f"{pair.after} minus {pair.before}, in points, paired by problem, with 95% intervals and p-values"
    lines = ["after minus before, in points, with 95% intervals and p-values"]
    for n, pair in enumerate(found.pairs, 1):
        lines.append(f"pair {n}: {pair.after} minus {pair.before}")
    return "\n".join(lines)


def describe(found: Comparison) -> str:
    """Return a table with a row per measure and benchmark; for several pairs, also with their mean, over seeds."""
    several = len(found.pairs) > 1
    lines = [["", "over problems", "p", "problems", "over seeds", "p", "each pair"]]
    if not several:
        lines = [["", "difference", "p", "problems"]]
    for measure, rows in found.differences.items():
        for suite, gap in rows.items():
            line = [f"{measure}, {suite}", gap.percent("+"), _p(gap.p), str(gap.n)]
            if several:
                mean = found.over_seeds[measure][suite]
                each = [_points(pair.differences[measure][suite]) for pair in found.pairs]
                line += [mean.percent("+"), _p(mean.p), " ".join(each)]
            lines.append(line)
    return align_columns(lines)


def _points(gap: Difference) -> str:
    return f"{100 * gap.value:+.1f}" if gap.n else "undefined"


def _p(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.4f}" if p >= 0.0001 else "<0.0001"


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
