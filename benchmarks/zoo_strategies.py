"""The test-time strategies of docs/results.md with models of `benchmarks/zoo.py`: results at equal cost.

    python benchmarks/zoo_strategies.py OUT [--seeds 5,6,7] [--models start,grpo] [--workers 2] [--problems 200]
        [--results benchmarks/results/zoo_strategies.csv]

OUT is the folder from `benchmarks/zoo.py`; answers go to OUT/strategies, and existing ones are kept. Models are those after
as many sampled tokens as the budget; the one start model answers with different samples for each seed. A strategy is
compared with a vote, or with fresh tries if it sees verdicts, that costs as many sampled tokens: "vote of 1.8" is one
answer in 20% and a vote of two in 80% of all cases. `benchmarks/zoo_page.py` shows the rows.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from real.result_files import to_csv
from rethink.evaluation.answers import Answer, read_answers
from rethink.evaluation.costs import describe_baseline
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.results import compute_results
from rethink.evaluation.runs import over_seeds
from rethink.evaluation.summary import Summary
from rethink.jsonl import write_text
from rethink.problems.source import load_problems
from rethink.settings import ProblemSource
from rethink.strategies import parse_all
from zoo import NEW_SEEDS
from zoo_arms import START
from zoo_evaluate import setup_of
from zoo_results import T1
from zoo_table import markdown, title

RESULTS = Path(__file__).parent / "results" / "zoo_strategies.csv"
MODELS = ("start", "grpo", "think-twice", "score", "pag", "learn-to-merge")
MARK = "sampled"
STRATEGIES = parse_all(
    "solve,refine,refine:3,merge:2,merge:3,merge:3+refine,rsa:4,2,2,vote:5+refine,solve:5+refine+vote,self-refine,reflect,"
    "fresh-retry"
)
BASELINES = parse_all(f"{','.join(f'vote:{n}' for n in range(2, 12))},fresh-retry:7")
"""For every cost that is expected; a strategy that costs more has no gain."""


@dataclass(frozen=True)
class Row:
    """A strategy with a model: means over seeds. `gain` is over the baseline of equal cost, with Student's interval over
    seeds; NaN without a baseline. `tokens` are sampled per problem, `calls` one after the other."""

    model: str
    strategy: str
    seeds: int
    accuracy: float
    gain: float
    gain_low: float
    gain_high: float
    baseline: str
    tokens: float
    calls: float


NUMBERS = ("accuracy", "gain", "gain_low", "gain_high", "tokens", "calls")
"""The columns of rows that are numbers with decimals."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default=",".join(map(str, NEW_SEEDS)))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    models = given.models.split(",")
    jobs = [(model, seed) for model in models for seed in seeds]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for job in pool.map(partial(run, given.out, given.problems), jobs):
            print("answered:", *job, flush=True)
    rows: list[Row] = []
    for model in models:
        rows += rows_of(model, [read(given.out, model, seed) for seed in seeds])
    write_rows(given.results, rows)


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


def rows_of(model: str, per_seed: Sequence[Sequence[Answer]]) -> list[Row]:
    """Return the rows of a model, from its answers with each seed."""
    by_strategy: dict[str, list[Summary]] = {strategy.name: [] for strategy in STRATEGIES}
    for answers in per_seed:
        (found,) = compute_results(answers, STRATEGIES).suites.values()
        for name, summary in found.strategies.items():
            by_strategy[name].append(summary)
    return [row_of(model, name, summaries) for name, summaries in by_strategy.items()]


def row_of(model: str, strategy: str, summaries: Sequence[Summary]) -> Row:
    costs = [summary.cost for summary in summaries]
    gains = [cost.gain.value for cost in costs if cost.gain is not None]
    gain = over_seeds(gains if len(gains) == len(costs) else [])
    return Row(
        model,
        strategy,
        len(summaries),
        round(statistics.fmean(summary.accuracy.value for summary in summaries), 4),
        round(gain.value, 4),
        round(gain.low, 4),
        round(gain.high, 4),
        describe_baseline(costs[0]),
        round(statistics.fmean(cost.tokens.value for cost in costs), 1),
        round(statistics.fmean(cost.depth.value for cost in costs), 2),
    )


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    write_text(file, to_csv([asdict(row) for row in rows]))


def read_rows(file: Path = RESULTS) -> list[Row]:
    found: list[Row] = []
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            accuracy, gain, low, high, tokens, calls = (float(line[name]) for name in NUMBERS)
            names = line["model"], line["strategy"], int(line["seeds"])
            found.append(Row(*names, accuracy, gain, low, high, line["baseline"], tokens, calls))
    return found


def strategy_table(rows: Sequence[Row]) -> str:
    """Return a line per strategy: its tokens with the first model, and for each model its accuracy and, in parentheses, its
    gain over the baseline of equal cost."""
    by_key = {(row.strategy, row.model): row for row in rows}
    models = list(dict.fromkeys(row.model for row in rows))
    lines = [["", f"tokens ({title(models[0])})", *map(title, models)]]
    for strategy in dict.fromkeys(row.strategy for row in rows):
        own = [by_key[strategy, model] for model in models]
        lines.append([f"`{strategy}`", f"{own[0].tokens:.0f}", *map(cell, own)])
    return markdown(lines)


def cell(row: Row) -> str:
    """Return accuracy and gain in percent.

    >>> cell(Row("grpo", "refine", 3, 0.52, 0.031, 0.012, 0.05, "vote of 2.0", 60.0, 2.0))
    '52.0 (+3.1 [+1.2, +5.0])'
    """
    accuracy = f"{100 * row.accuracy:.1f}"
    if math.isnan(row.gain):
        return accuracy
    if math.isnan(row.gain_low):
        return f"{accuracy} ({100 * row.gain:+.1f})"
    return f"{accuracy} ({100 * row.gain:+.1f} [{100 * row.gain_low:+.1f}, {100 * row.gain_high:+.1f}])"


if __name__ == "__main__":
    main()
