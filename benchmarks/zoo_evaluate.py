"""Evaluate the models that `benchmarks/zoo.py` trained, and write small result files.

    python benchmarks/zoo_evaluate.py OUT [--results benchmarks/results/zoo] [--workers 2] [--split test] [--problems 240]

Each kept model of each complete run in OUT answers the first problems of the split: it writes four drafts and refines each
once, at temperature 1, and with the sampling of the ThinkTwice paper (drafts at temperature 0.7, top-p 0.8 and top-k 20,
greedy refinements). Where a budget of tokens is spent, and after 160 updates, it also refines up to four times, tries again
after a check of a wrong answer (`reflect`), checks and corrects its answers (`self-refine`), and merges and votes over
three drafts, at temperature 1. Marks with the same weights are evaluated once, and ablations after 160 updates only. Runs
with new seeds refine up to four times after 320 updates only.

Existing results are kept, so a stopped evaluation continues where it was. `benchmarks/zoo_table.py` and
`benchmarks/zoo_picture.py` show the results.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.build import build_prompts, local_policy, open_model
from rethink.evaluation.answers import by_strategy
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.jsonl import Record
from rethink.problems.source import load_problems
from rethink.recipe import load_recipe
from rethink.settings import ProblemSource
from rethink.strategies import Setup, parse_all
from rethink.types import Sampling
from zoo import BUDGET, MARKS, NEW_SEEDS, SEEDS, SHORT, ColdStart, n_sampled, n_trained, trained_before, update_records
from zoo_arms import ARMS, START, WORLD
from zoo_results import FIRST_STRATEGY, PAPER, RESULTS, T1, Answers, Point, Run, from_evaluation, read_run, write_run

CAP = 100
"""The most tokens in a reply, for all arms: room for several attempts, as some methods teach."""

PAPER_SAMPLING = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=CAP)
SAMPLINGS = {
    T1: (Sampling(max_tokens=CAP), Sampling(max_tokens=CAP)),
    PAPER: (PAPER_SAMPLING, Sampling(temperature=0.0, max_tokens=CAP)),
}
"""By name: the sampling of first answers, and of all others."""

CHAIN = "refine:2,refine:3,refine:4"
MORE = f"{CHAIN},reflect,self-refine,merge:3,vote:3,vote:4"
"""The strategies at temperature 1 for which there is not time at all marks."""

FULL_MARKS = ("start", "sampled", "trained", str(SHORT))


@dataclass(frozen=True)
class Task:
    """A run to evaluate. `arm` is "start" for the start model, which has no folder; it answers with each seed."""

    arm: str
    seed: int
    folder: Path | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--split", default="test")
    parser.add_argument("--problems", type=int, default=240)
    given = parser.parse_args()
    source = ProblemSource("signs", split=given.split, limit=given.problems)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for name in pool.map(partial(evaluate_run, given.results, source), tasks(given.out)):
            print("evaluated:", name, flush=True)


def tasks(out: Path) -> list[Task]:
    """Return the start model and all complete runs."""
    found = [Task("start", seed) for seed in (*SEEDS, *NEW_SEEDS)]
    complete = {done.parent for name in ("trained", "trained-to-the-end") for done in out.glob(f"*/{name}")}
    for folder in sorted(complete):
        arm, _, seed = folder.name.rpartition("-")
        if arm in ARMS:  # and no trial of a learning rate
            found.append(Task(arm, int(seed), folder))
    return found


def evaluate_run(results: Path, source: ProblemSource, task: Task) -> str:
    """Evaluate what is missing of a run. Return its name."""
    torch.set_num_threads(1)
    run = known_run(results, source, task)
    for updates, marks in marks_by_updates(task.folder).items():
        point = run.points.get(updates) or point_at(task.folder, updates)
        for sampling, strategies in wanted(task, marks).items():
            if sampling not in point.by_sampling:
                path = START if task.folder is None else str(task.folder / "kept" / marks[0])
                answers = evaluate(path, task.seed, source, sampling, strategies)
                point = replace(point, by_sampling={**point.by_sampling, sampling: answers})
                run = replace(run, points={**run.points, updates: point})
                write_run(results, run)
    return f"{task.arm}-{task.seed}"


def known_run(results: Path, source: ProblemSource, task: Task) -> Run:
    """Return a run with its results so far. Raise ValueError if they are of another run, or of other problems."""
    run = described(source, task)
    file = results / f"{task.arm}-{task.seed}.json"
    if not file.exists():
        return run
    known = read_run(file)
    if replace(known, points={}) != run:
        raise ValueError(f"{file} is of another run, or of other problems; move it away, or give other --results")
    return known


def described(source: ProblemSource, task: Task) -> Run:
    """Return a run without results, as its folder describes it."""
    problems = f"{source.source} {source.split} {source.limit}"
    if task.folder is None:
        return Run(task.arm, task.seed, 0.0, problems)
    config = tomllib.loads((task.folder / "config.toml").read_text())
    marks: dict[str, int] = {}
    for updates, names in marks_by_updates(task.folder).items():
        marks |= {name: updates for name in names if not name.isdigit()}
    return Run(task.arm, task.seed, config["training"]["lr"], problems, prepared_tokens(data_card(task)), marks)


def data_card(task: Task) -> Path:
    """Return the card of the data of a run, or of its cold start; there is none if these are no prepared data."""
    assert task.folder is not None
    folder = task.folder
    if ARMS[task.arm].cold:
        folder = ColdStart(task.arm, task.seed).folder(folder.parent)
    config = tomllib.loads((folder / "config.toml").read_text())
    return Path(config["problems"]["source"]).with_suffix(".md")


def wanted(task: Task, marks: Sequence[str]) -> Mapping[str, str]:
    """Return the samplings that a model is evaluated with, and the strategies of each. Ablations are compared once; runs
    with new seeds refine again and again after the last mark only."""
    is_full = not {*marks}.isdisjoint(FULL_MARKS)
    if task.folder and task.seed in NEW_SEEDS:
        return {T1: f"{FIRST_STRATEGY},{CHAIN}" if str(MARKS[-1]) in marks else FIRST_STRATEGY, PAPER: FIRST_STRATEGY}
    if task.arm in ARMS and ARMS[task.arm].of and str(SHORT) not in marks:
        return {}
    return {T1: f"{FIRST_STRATEGY},{MORE}" if is_full else FIRST_STRATEGY, PAPER: FIRST_STRATEGY}


def evaluate(path: str, seed: int, source: ProblemSource, sampling: str, strategies: str) -> Answers:
    """Return the answers of one model."""
    spec = EvaluationSpec(load_problems(source), parse_all(strategies), batch=512)
    return from_evaluation(by_strategy(run_evaluation(setup_of(path, seed, sampling), spec, resumable_answers(None))))


def setup_of(path: str, seed: int, sampling: str) -> Setup:
    """Return a model with the prompts that all models are evaluated with, whatever prompts they were trained with."""
    recipe = load_recipe(ARMS["grpo"].recipe, [*WORLD, f"model.path={path}", f"seed={seed}"])
    first, others = SAMPLINGS[sampling]
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), first)
    return Setup(policy, build_prompts(recipe, recipe.seed), first, others)


def marks_by_updates(folder: Path | None) -> dict[int, list[str]]:
    """Return the kept marks of a run by its number of updates; marks with the same number have the same weights.

    A run that learns from prepared data alone has sampled before it begins. For it, the budget of trained tokens, or the
    last mark, stands for the budget of sampled ones."""
    if folder is None:
        return {0: ["start"]}
    found: dict[int, list[str]] = {}
    for kept in sorted((folder / "kept").iterdir()):
        found.setdefault(updates_at(folder, kept.name), []).append(kept.name)
    if not n_sampled(update_records(folder)):
        with_budget = [updates for updates, names in found.items() if "trained" in names]
        found[max(with_budget or found)].append("sampled")
    return dict(sorted(found.items()))


def updates_at(folder: Path, mark: str) -> int:
    """Return the number of updates at a mark: a number, or the first at which the budget is spent. The last, if it is not
    (in a trial, with `--limit`)."""
    if mark.isdigit():
        return int(mark)
    records = update_records(folder)
    spent = trained_before(folder) if mark == "trained" else 0
    for record in records:
        spent += n_trained([record]) if mark == "trained" else n_sampled([record])
        if spent >= BUDGET:
            return int(record["update"])
    return int(records[-1]["update"])


def point_at(folder: Path | None, updates: int) -> Point:
    """Return what a run has spent after some updates, without answers."""
    records: list[Record] = []
    for record in update_records(folder) if folder else ():
        if record["update"] <= updates:
            records.append(record)
    phases = Counter(record["phase"] for record in records)
    trained = n_trained(records) + (trained_before(folder) if folder else 0)
    return Point(n_sampled(records), trained, dict(phases), logged=logged(records))


def logged(records: Sequence[Record]) -> dict[str, float]:
    """Return what training logged: means over the last 20 updates, and, with " at first", over the first five.

    These are the method's metrics, and the accuracy of first answers to training problems."""
    found: dict[str, float] = {}
    for part, ending in ((records[-20:], ""), (records[:5], " at first")):
        values: dict[str, list[float]] = {}
        for record in part:
            of_method = {name.removeprefix("method/"): record[name] for name in record if name.startswith("method/")}
            if record["phase"] == "solve":
                of_method["training accuracy"] = record.get("accuracy")
            for name, value in of_method.items():
                if value is not None and not math.isnan(value):
                    values.setdefault(name, []).append(value)
        found |= {name + ending: round(statistics.fmean(some), 4) for name, some in values.items()}
    return found


def prepared_tokens(card: Path) -> int:
    """Return the tokens that were sampled for prepared data, by student and teacher, as its data card says; 0 without."""
    if not card.is_file():
        return 0
    line = next(line for line in card.read_text().splitlines() if line.startswith("Sampled tokens"))
    return sum(int(word) for word in line.split() if word.isdigit())


if __name__ == "__main__":
    main()
