"""The tables of docs/results.md about the models that `benchmarks/methods.py` trained.

    python benchmarks/methods_table.py OUT [--workers 2] [--every 2] [--n 8] [--only-print]

Answers every second held-out problem `--n` times with each trained model, and refines each answer once: at temperature 1,
and with the sampling of the ThinkTwice paper (temperature 0.7, top-p 0.8, top-k 20, greedy refinement). Answers go to
OUT/answers; existing ones are kept. Prints markdown.

Rates are pooled over seeds, with 95% intervals over problems. Differences have two intervals: over problems (other
problems, the same models), and over seeds (Student's; other training runs with the same settings).
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from methods import ARMS, RRR, model_folder, token_counts
from rethink.build import build_prompts, load_all_problems, local_policy, open_model
from rethink.evaluation.answers import Answer, first_answers, read_answers
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.fresh import fresh_outcomes
from rethink.evaluation.intervals import Outcomes, average, paired_difference, rate
from rethink.evaluation.outcomes import (
    damage_outcomes,
    final_outcomes,
    final_pass_outcomes,
    fix_outcomes,
    refined_outcomes,
    solve_outcomes,
    solve_pass_outcomes,
)
from rethink.evaluation.runs import over_seeds
from rethink.recipe import load_recipe
from rethink.strategies import Setup, parse
from rethink.types import Sampling

Runs = Sequence[tuple[Answer, ...]]
"""The answers of each run of an arm."""

PAPER = Sampling(temperature=0.7, top_p=0.8, top_k=20)
GREEDY = Sampling(temperature=0.0)
SAMPLINGS = {"t1": (Sampling(), Sampling()), "paper": (PAPER, GREEDY), "second": (Sampling(), Sampling())}
"""By name: the sampling of first answers and of refinements. "second" reflects on wrong answers instead of refining."""

SHORT = {"start": 0, "grpo-80": 80, "grpo": 160, "think-twice": 160, "grpo-320": 320, "think-twice-320": 320}
LONG = ("grpo-long", "think-twice-long", "think-tuning-off", "think-tuning")
METHODS = ("start", "grpo", "think-twice", "gsr", "rrr-sampled", "rrr-trained")


@dataclass(frozen=True)
class Job:
    """A model to evaluate. `cap` is the largest number of tokens in a reply."""

    name: str
    seed: int
    sampling: str
    cap: int

    def file(self, out: Path) -> Path:
        return out / "answers" / f"{self.name}-{self.seed}-{self.sampling}-{self.cap}.jsonl"


def jobs_for(out: Path) -> list[Job]:
    """Return the evaluations of all trained models: those at cap 24, and at cap 48 those of models trained with it."""
    found = [Job("start", 0, sampling, 24) for sampling in SAMPLINGS]
    for marker in sorted(out.glob("*/trained")):
        name, _, seed = marker.parent.name.rpartition("-")
        if name in LONG:
            found.append(Job(name, int(seed), "t1", 48))
        else:
            samplings = SAMPLINGS if name in METHODS else ("t1", "paper")
            found += [Job(name, int(seed), sampling, 24) for sampling in samplings]
    return found


def evaluate(out: Path, every: int, n: int, job: Job) -> None:
    """Write the answers of one model, unless they exist."""
    torch.set_num_threads(1)
    file = job.file(out)
    if file.with_suffix(".done").exists():
        return
    recipe = load_recipe(RRR, [f"seed={job.seed}"])  # its prompts are those of all demo recipes
    path = "tiny-talk" if job.name == "start" else str(model_folder(out, job.name, job.seed))
    sampling, refine_sampling = (replace(some, max_tokens=job.cap) for some in SAMPLINGS[job.sampling])
    policy = local_policy(recipe, open_model(replace(recipe.model, path=path), recipe.seed), sampling)
    setup = Setup(policy, build_prompts(recipe, recipe.seed), sampling, refine_sampling)
    strategy = parse("reflect" if job.sampling == "second" else "refine")
    file.parent.mkdir(exist_ok=True)
    spec = EvaluationSpec(load_all_problems(recipe)[1][::every], [strategy], n)
    run_evaluation(setup, spec, resumable_answers(file))
    file.with_suffix(".done").touch()


@cache
def runs_of(out: Path, name: str, sampling: str, cap: int) -> Runs:
    """Return the answers of all evaluated runs of an arm, by seed."""
    found = sorted((out / "answers").glob(f"{name}-[0-9]-{sampling}-{cap}.done"))
    return [tuple(read_answers(done.with_suffix(".jsonl"))) for done in found]


def seeds_of(out: Path, name: str) -> list[int]:
    return [int(marker.parent.name.rpartition("-")[2]) for marker in sorted(out.glob(f"{name}-[0-9]/trained"))]


def fix_fresh(answers: Sequence[Answer]) -> Outcomes:
    return fresh_outcomes(answers, False)[1]


def damage_fresh(answers: Sequence[Answer]) -> Outcomes:
    return fresh_outcomes(answers, True)[1]


RATES: dict[str, Callable[[Sequence[Answer]], Outcomes]] = {
    "solve": solve_outcomes,
    "solve, pass@4": partial(solve_pass_outcomes, k=4),
    "refined": refined_outcomes,
    "refined, pass@4": partial(final_pass_outcomes, k=4),
    "fix": fix_outcomes,
    "fresh answer instead": fix_fresh,
    "damage": damage_outcomes,
    "fresh answer instead ": damage_fresh,
}
"""Each is computed run by run: k answers of pass@k, and fresh answers, come from one model."""
ACCURACIES = ("solve", "solve, pass@4", "refined", "refined, pass@4")


def pooled(runs: Runs, measure: str) -> Outcomes:
    return [outcome for answers in runs for outcome in RATES[measure](answers)]


def rate_table(out: Path, names: Sequence[str], sampling: str, cap: int = 24) -> str:
    lines = [["", "updates", "runs", *(name.strip() for name in RATES)]]
    for name in names:
        runs = runs_of(out, name, sampling, cap)
        if runs:
            cells = [rate(pooled(runs, measure)).percent() for measure in RATES]
            lines.append([*_title(name), str(len(runs)), *cells])
    return markdown(lines)


def reply_table(out: Path, names: Sequence[str], cap: int = 24) -> str:
    """Return entropy and the share of cut replies at temperature 1, the latter also of each run; tokens per reply; and the
    tokens that training sampled and trained, as means over runs.
    """
    lines = [["", "updates", "entropy, nats", "cut", "each run", "tokens", "sampled in training", "trained"]]
    for name in names:
        runs = runs_of(out, name, "t1", cap)
        if not runs:
            continue
        entropy = average([(p, -(step.log_prob or 0.0)) for answers in runs for p, step in first_answers(answers)])
        cut = [[(p, step.stop == "length") for p, step in first_answers(answers)] for answers in runs]
        each = ", ".join(f"{rate(own).value * 100:.1f}" for own in cut)
        length = average([(p, step.n_tokens or 0) for answers in runs for p, step in first_answers(answers)])
        used = [token_counts(out, name, seed) for seed in seeds_of(out, name)]
        cost = [f"{statistics.fmean(count):,.0f}" for count in zip(*used, strict=True)] if used else ["-", "-"]
        share = rate([outcome for own in cut for outcome in own]).percent()
        lines.append([*_title(name), f"{entropy.value:.2f}", share, each, f"{length.value:.1f}", *cost])
    return markdown(lines)


def difference_table(out: Path, pairs: Sequence[tuple[str, str]], sampling: str, cap: int = 24) -> str:
    """Return first minus second arm of each pair: pooled, over problems, over seeds, and each seed."""
    lines = [["", "", "difference over problems", "over seeds", "p over seeds", "each seed"]]
    for ours, theirs in pairs:
        first, second = runs_of(out, ours, sampling, cap), runs_of(out, theirs, sampling, cap)
        n = min(len(first), len(second))
        if not n:
            continue
        title = f"{' '.join(_title(ours))} minus {' '.join(_title(theirs))}"
        for measure in ACCURACIES:
            gap = paired_difference(pooled(first[:n], measure), pooled(second[:n], measure))
            each = [
                rate(RATES[measure](a)).value - rate(RATES[measure](b)).value
                for a, b in zip(first[:n], second[:n], strict=True)
            ]
            seeds = over_seeds(each)
            shown = ", ".join(f"{100 * value:+.1f}" for value in each)
            p = "<0.001" if seeds.p < 0.0005 else f"{seeds.p:.3f}"
            lines.append([title, measure, gap.percent("+"), seeds.percent("+"), p, shown])
            title = ""
    return markdown(lines)


def second_table(out: Path, names: Sequence[str]) -> str:
    """Return accuracies when each wrong answer gets a second try: with a reflection, or a fresh answer (pass@2)."""
    lines = [
        [
            "",
            "updates",
            "first try",
            "a fresh second try",
            "a reflection, then a second try",
            "difference",
            "over seeds",
        ]
    ]
    for name in names:
        runs = runs_of(out, name, "second", 24)
        if not runs:
            continue
        fresh = [solve_pass_outcomes(answers, 2) for answers in runs]
        reflected = [final_outcomes(answers) for answers in runs]
        all_fresh, all_reflected = list(chain.from_iterable(fresh)), list(chain.from_iterable(reflected))
        gap = paired_difference(all_reflected, all_fresh)
        each = [rate(a).value - rate(b).value for a, b in zip(reflected, fresh, strict=True)]
        rates = [rate(pooled(runs, "solve")), rate(all_fresh), rate(all_reflected)]
        cells = [found.percent() for found in rates]
        lines.append([*_title(name), *cells, gap.percent("+"), over_seeds(each).percent("+")])
    return markdown(lines)


def per_seed(out: Path, names: Sequence[str], cap: int = 24) -> str:
    lines = [["", "updates", "seed", *(name.strip() for name in RATES)]]
    for name in names:
        for seed, answers in enumerate(runs_of(out, name, "t1", cap)):
            cells = [rate(measure(answers)).percent() for measure in RATES.values()]
            lines.append([*_title(name), str(seed), *cells])
    return markdown(lines)


def _title(name: str) -> list[str]:
    return ["start", "0"] if name == "start" else [ARMS[name].title, str(ARMS[name].updates)]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--only-print", action="store_true")
    given = parser.parse_args()
    out = given.out
    if not given.only_print:
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(evaluate, out, given.every, given.n), jobs_for(out)))
    curve, long = list(SHORT), list(LONG)
    others = [(name, "grpo") for name in METHODS[2:]]
    same_solve = [("think-twice", "grpo-80"), ("think-twice-320", "grpo"), ("think-twice-320", "grpo-320")]
    for sampling, how in (("t1", "temperature 1"), ("paper", "the paper's sampling")):
        print(f"## Methods, {how}\n\n{rate_table(out, METHODS, sampling)}\n{difference_table(out, others, sampling)}")
        print(f"## Updates, {how}\n\n{rate_table(out, curve, sampling)}\n{difference_table(out, same_solve, sampling)}")
    print(f"## Replies\n\n{reply_table(out, list(dict.fromkeys([*METHODS, *curve])))}\n{reply_table(out, long, 48)}")
    pairs = [("think-twice-long", "grpo-long"), ("think-tuning", "think-tuning-off"), ("think-tuning-off", "grpo-long")]
    print(f"## Room for 48 tokens\n\n{rate_table(out, long, 't1', 48)}\n{difference_table(out, pairs, 't1', 48)}")
    print(f"## Second tries\n\n{second_table(out, METHODS)}")
    print(f"## Each seed\n\n{per_seed(out, METHODS[1:])}\n{per_seed(out, curve[-2:])}\n{per_seed(out, long, 48)}")


if __name__ == "__main__":
    main()
