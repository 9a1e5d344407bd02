"""The tables of docs/results.md about the models that `benchmarks/zoo.py` trained.

    python benchmarks/zoo_table.py OUT [--start tiny-signs] [--workers 2] [--split test] [--problems 400] [--only-print]

Each kept model answers problems of the split four times, at temperature 1 and with the sampling of the ThinkTwice paper
(temperature 0.7, top-p 0.8, top-k 20, greedy refinement). At temperature 1, it also answers after a check of wrong answers
(`reflect`), merges and votes over three answers, and refines up to four times. Answers go to OUT/answers; existing ones are
kept. Prints markdown.

A rate is the mean over runs, with Student's interval over runs. Differences to GRPO are paired by seed; their p-values are
corrected for the number of arms in the table (Holm).
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.build import build_prompts, local_policy, open_model
from rethink.evaluation.answers import Answer, read_answers
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.intervals import Difference, Estimate
from rethink.evaluation.runs import over_seeds
from rethink.evaluation.summary import Summary, summarize
from rethink.problems.source import load_problems
from rethink.recipe import load_recipe
from rethink.settings import ProblemSource
from rethink.strategies import Setup, parse_all
from rethink.types import Sampling
from zoo import ARMS, WORLD

CAP = 44
PAPER = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=CAP)
SAMPLINGS = {
    "t1": (
        Sampling(max_tokens=CAP),
        Sampling(max_tokens=CAP),
        "refine,reflect,merge:3,vote:3,refine:2,refine:3,refine:4",
    ),
    "paper": (PAPER, Sampling(temperature=0.0, max_tokens=CAP), "refine"),
}
"""By name: the sampling of first answers and of all others, and the strategies."""

N_ANSWERS = 4
MEASURES = (
    *("solve", "solve pass@4", "refined", "fix", "fresh answer instead", "damage", "fresh instead of a right one"),
    *("second try", "merged", "voted", "chain of 4", "tokens", "entropy", "cut"),
)


@dataclass(frozen=True)
class Job:
    """A kept model of a run, and how it answers."""

    arm: str
    seed: int
    mark: str
    sampling: str

    def file(self, out: Path) -> Path:
        return out / "answers" / f"{self.arm}-{self.seed}-{self.mark}-{self.sampling}.jsonl"


def jobs_for(out: Path) -> list[Job]:
    """Return the evaluations of the start model and of all kept models."""
    found = [Job("start", 0, "0", sampling) for sampling in SAMPLINGS]
    for kept in sorted(out.glob("*/kept/*")):
        arm, _, seed = kept.parent.parent.name.rpartition("-")
        found += [Job(arm, int(seed), kept.name, sampling) for sampling in SAMPLINGS]
    return found


def evaluate(out: Path, start: str, split: str, n_problems: int, job: Job) -> None:
    """Write the answers of one model, unless they exist."""
    torch.set_num_threads(1)
    file = job.file(out)
    if file.with_suffix(".done").exists():
        return
    path = start if job.arm == "start" else str(out / f"{job.arm}-{job.seed}" / "kept" / job.mark)
    recipe = load_recipe("demo-think-twice", [*WORLD, f"model.path={path}", f"seed={job.seed}"])
    first, others, names = SAMPLINGS[job.sampling]
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), first)
    setup = Setup(policy, build_prompts(recipe, recipe.seed), first, others)
    problems = load_problems(ProblemSource("signs", split=split, limit=n_problems))
    file.parent.mkdir(exist_ok=True)
    spec = EvaluationSpec(problems, parse_all(names), N_ANSWERS)
    run_evaluation(setup, spec, resumable_answers(file))
    file.with_suffix(".done").touch()


@cache
def measured(out: Path, job: Job) -> dict[str, float] | None:
    """Return the measures of one model; None if it was not evaluated."""
    file = job.file(out)
    if not file.with_suffix(".done").exists():
        return None
    by_strategy: dict[str, list[Answer]] = {}
    for answer in read_answers(file):
        by_strategy.setdefault(answer.strategy, []).append(answer)
    found = {name: summarize(answers, (1, N_ANSWERS)) for name, answers in by_strategy.items()}
    return _measures(found)


def _measures(found: dict[str, Summary]) -> dict[str, float]:
    refine = found["refine"]
    values = {
        "solve": refine.solve.accuracy.value,
        "solve pass@4": refine.solve.pass_at_k[str(N_ANSWERS)].value,
        "tokens": refine.cost.tokens.value,
        "entropy": refine.solve.entropy.value,
        "cut": refine.solve.truncated.value,
    }
    rates: dict[str, Estimate | None] = {
        "refined": None if refine.refined is None else refine.refined.accuracy,
        "fix": refine.fix,
        "fresh answer instead": refine.fix_fresh,
        "damage": refine.damage,
        "fresh instead of a right one": refine.damage_fresh,
    }
    for measure, rate in rates.items():
        if rate is not None:
            values[measure] = rate.value
    for measure, strategy in (
        ("second try", "reflect"),
        ("merged", "merge:3"),
        ("voted", "vote:3"),
        ("chain of 4", "refine:4"),
    ):
        if strategy in found:
            values[measure] = found[strategy].accuracy.value
    return values


def of_runs(out: Path, arm: str, mark: str, sampling: str) -> dict[int, dict[str, float]]:
    """Return the measures of all evaluated runs of an arm, by seed."""
    found: dict[int, dict[str, float]] = {}
    for done in sorted((out / "answers").glob(f"{arm}-[0-9]-{mark}-{sampling}.done")):
        seed = int(done.name.removeprefix(f"{arm}-")[0])
        values = measured(out, Job(arm, seed, mark, sampling))
        if values is not None:
            found[seed] = values
    return found


def rate_table(out: Path, mark: str, sampling: str) -> str:
    lines = [["", "runs", *MEASURES]]
    for arm in ("start", *ARMS):
        runs = of_runs(out, arm, "0" if arm == "start" else mark, sampling)
        if runs:
            title = "start" if arm == "start" else ARMS[arm].title
            lines.append([title, str(len(runs)), *(_cell(runs, measure) for measure in MEASURES)])
    return markdown(lines)


def _cell(runs: dict[int, dict[str, float]], measure: str) -> str:
    values = [run[measure] for run in runs.values() if measure in run]
    if not values:
        return "-"
    found = over_seeds(values)
    if measure not in ("tokens", "entropy"):
        return found.percent()
    return f"{found.value:.2f}" if math.isnan(found.low) else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def difference_table(out: Path, mark: str, sampling: str, baseline: str = "grpo") -> str:
    """Return each arm minus the baseline, paired by seed, with p-values corrected over the arms."""
    measures = ("solve", "solve pass@4", "refined", "fix", "damage", "merged", "chain of 4")
    theirs = of_runs(out, baseline, mark, sampling)
    gaps: dict[str, dict[str, Difference]] = {measure: {} for measure in measures}
    for arm in ARMS:
        ours = of_runs(out, arm, mark, sampling)
        seeds = sorted(ours.keys() & theirs.keys())
        if arm == baseline or not seeds:
            continue
        for measure in measures:
            if measure in ours[seeds[0]] and measure in theirs[seeds[0]]:
                gaps[measure][arm] = over_seeds([ours[seed][measure] - theirs[seed][measure] for seed in seeds])
    corrected = {measure: holm({arm: gap.p for arm, gap in of.items()}) for measure, of in gaps.items()}
    lines = [["minus GRPO", *measures]]
    for arm in ARMS:
        if arm in gaps["solve"]:
            cells = []
            for measure in measures:
                gap = gaps[measure].get(arm)
                cells.append("-" if gap is None else f"{gap.percent('+')}, p {corrected[measure][arm]:.3f}")
            lines.append([ARMS[arm].title, *cells])
    return markdown(lines)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return Holm's corrected p-values: p times the number of hypotheses not yet rejected, never falling, at most 1."""
    found: dict[str, float] = {}
    largest = 0.0
    in_order = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(in_order):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        found[name] = largest
    return found


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", default="tiny-signs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--split", default="test")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--only-print", action="store_true")
    given = parser.parse_args()
    out = given.out
    if not given.only_print:
        work = partial(evaluate, out, given.start, given.split, given.problems)
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(work, jobs_for(out)))
    marks = {"sampled": "as many sampled tokens", "trained": "as many trained tokens", "160": "160 updates"}
    for mark, what in marks.items():
        for sampling, how in (("t1", "temperature 1"), ("paper", "the paper's sampling")):
            print(
                f"## After {what}, {how}\n\n{rate_table(out, mark, sampling)}\n{difference_table(out, mark, sampling)}"
            )


if __name__ == "__main__":
    main()
