"""The test-time strategies of docs/results.md with models of `benchmarks/zoo.py`: results and costs.

    python benchmarks/zoo_strategies.py OUT [--seeds 0,1,2,3,4] [--models start,grpo] [--workers 2] [--problems 200]

OUT is the folder from `benchmarks/zoo.py`; answers go to OUT/strategies, and existing ones are kept. Models are those after
as many sampled tokens as the budget; the one start model answers with different samples for each seed. Prints markdown.
Seeds are pooled, with intervals over problems: these models on other problems. The column "over seeds" has Student's
interval over the gains of the single seeds: models that are trained with other seeds. Strategies that see verdicts are
compared with fresh tries, others with votes; "vote of 1.8" is one answer in 20% and a vote of two in 80% of all cases.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.evaluation.answers import Answer, read_answers
from rethink.evaluation.costs import describe_baseline
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.gap import Gap
from rethink.evaluation.results import SuiteResult, compute_results
from rethink.evaluation.runs import over_seeds
from rethink.problems.source import load_problems
from rethink.settings import ProblemSource
from rethink.strategies import parse_all
from zoo_arms import START
from zoo_evaluate import setup_of
from zoo_results import T1
from zoo_table import markdown, title

MODELS = ("start", "grpo", "think-twice", "gsr", "learn-to-merge", "pag")
MARK = "sampled"
STRATEGIES = parse_all(
    "solve,refine,refine:3,merge:2,merge:3,merge:3+refine,rsa:4,2,2,vote:5+refine,solve:5+refine+vote,self-refine,reflect,"
    "fresh-retry"
)
BASELINES = parse_all(f"{','.join(f'vote:{n}' for n in range(2, 12))},fresh-retry:7")
"""For every cost that is expected; the table has "-" where a strategy costs more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--problems", type=int, default=200)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    models = given.models.split(",")
    jobs = [(model, seed) for model in models for seed in seeds]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for job in pool.map(partial(run, given.out, given.problems), jobs):
            print("answered:", *job, file=sys.stderr, flush=True)
    for model in models:
        per_seed = [read(given.out, model, seed) for seed in seeds]
        print(f"**{title(model)}**\n")
        pooled = numbers([answer for answers in per_seed for answer in answers])
        print(cost_table(pooled, list(map(numbers, per_seed))))
        print(gap_table(pooled.gaps))


def run(out: Path, n_problems: int, job: tuple[str, int]) -> tuple[str, int]:
    """Write all answers of a model, unless they exist, and return the job."""
    torch.set_num_threads(1)
    model, seed = job
    done = out / "strategies" / f"{model}-{seed}.done"
    if done.exists():
        return job
    done.parent.mkdir(parents=True, exist_ok=True)
    path = START if model == "start" else str(out / f"{model}-{seed}" / "kept" / MARK)
    problems = load_problems(ProblemSource("signs", split="test", limit=n_problems))
    file = resumable_answers(done.with_suffix(".jsonl"))
    run_evaluation(setup_of(path, seed, T1), EvaluationSpec(problems, [*STRATEGIES, *BASELINES], batch=1024), file)
    file.close()
    done.touch()
    return job


def read(out: Path, model: str, seed: int) -> list[Answer]:
    """Return all answers of a model, seeds as repeats."""
    found: list[Answer] = []
    for answer in read_answers(out / "strategies" / f"{model}-{seed}.jsonl"):
        found.append(replace(answer, repeat=seed))
    return found


def numbers(answers: Sequence[Answer]) -> SuiteResult:
    (found,) = compute_results(answers, STRATEGIES).suites.values()
    return found


def cost_table(pooled: SuiteResult, per_seed: Sequence[SuiteResult]) -> str:
    lines = [["strategy", "accuracy", "minus equal cost", "over seeds", "shown", "sampled", "calls"]]
    for name, summary in (pooled.strategies | pooled.baselines).items():
        row = summary.cost
        gain = "-" if row.gain is None else f"{row.gain.percent('+')} ({describe_baseline(row)})"
        tokens = (f"{row.prompt_tokens.value:.0f}", f"{row.tokens.value:.0f}", f"{row.depth.value:.1f}")
        lines.append([name, summary.accuracy.percent(), gain, gain_over_seeds(name, per_seed), *tokens])
    return markdown(lines)


def gain_over_seeds(name: str, per_seed: Sequence[SuiteResult]) -> str:
    """Return the mean gain over the baseline of equal cost with its interval over seeds; "-" without one."""
    gains: list[float] = []
    for own in per_seed:
        gain = own.strategies[name].cost.gain if name in own.strategies else None
        if gain is not None:
            gains.append(gain.value)
    return over_seeds(gains).percent("+") if gains and len(gains) == len(per_seed) else "-"


def gap_table(gaps: Sequence[Gap]) -> str:
    heads = ["refinement gap", "merged", "vote", "gap", "relative", "to a vote of k + 1", "all wrong: share"]
    lines = [[*heads, "merged right", "fresh answer right", "difference"]]
    for g in gaps:
        rates = [
            g.merged.percent(),
            g.vote.percent(),
            g.gap.percent("+"),
            g.relative.percent("+"),
            g.gap_to_larger_vote.percent("+"),
        ]
        wrong = [g.all_wrong.percent(), g.rescued.percent(), g.fresh.percent(), g.rescue.percent("+")]
        lines.append([f"k = {g.k}", *rates, *wrong])
    return markdown(lines)


if __name__ == "__main__":
    main()
