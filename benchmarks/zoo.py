"""All methods and objectives in one world, from one start model: the runs behind docs/results.md.

    python benchmarks/zoo.py OUT [--start tiny-signs] [--arms grpo,pag] [--seeds 0,1,2,3,4] [--workers 2] [--limit N]

First, each arm is trained with each learning rate of the grid for 80 updates, with seed 0, and the rate with the best
refined answers on validation problems is chosen (OUT/rates.json). Then each arm is trained with that rate and each seed.
The learning rate is constant, so a run can be compared at any point: weights are kept after 40, 80, 160 and 320 updates,
and where the run has sampled, or trained, as many tokens as the budget, which is what GRPO needs for 160 updates.

Everything is kept in OUT; a stopped study continues where it was. One thread per run: results do not depend on `--workers`.
`--limit` makes everything smaller, for a trial. `benchmarks/zoo_table.py` evaluates the weights and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.jsonl import write_text
from rethink.recipe import Recipe, load_recipe
from rethink.training.loop import train
from rethink.training.run import Run, open_run

RATES = (1e-4, 3e-4, 6e-4)
TRIED = 80
"""The learning rates that each arm is tried with, and for how many updates."""

MARKS = (40, 80, 160, 320)
"""The numbers of updates after which weights are kept."""

BUDGET = 160 * 32 * 8 * 30
"""Tokens: 160 updates of GRPO, with 32 problems, eight replies to each and 30 tokens in each reply."""

WORLD = (
    'problems.source="signs"',
    'evaluation.problems.source="signs"',
    'evaluation.problems.split="validation"',
    "evaluation.n=2",
    "evaluation.sampling={temperature=1.0,max_tokens=44}",
    "sampling.max_tokens=44",
    'prompts.reflect="check"',
    'prompts.retry="again"',
    'prompts.critique="check"',
    'prompts.improve="again"',
    'prompts.merge="{question} {candidates} again"',
    'prompts.candidate="? {candidate}"',
    'prompts.between=" "',
    'training.schedule="constant"',
    "training.warmup_updates=5",
    "checkpoint_every=1000",
)


@dataclass(frozen=True)
class Arm:
    """One way of training: a recipe, and what differs from it."""

    title: str
    recipe: str
    settings: tuple[str, ...] = ()


OBJECTIVES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "rloo")
ARMS = {
    "grpo": Arm("GRPO", "demo-grpo"),
    "think-twice": Arm("ThinkTwice", "demo-think-twice"),
    **{
        f"objective-{name}": Arm(f"objective {name}", "demo-grpo", (f"method.objective={name}",)) for name in OBJECTIVES
    },
}
"""The arms by name."""


@dataclass(frozen=True)
class Job:
    """A run of an arm. With `rate` None, the rate that was chosen for the arm."""

    arm: str
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}" if self.rate is None else f"{self.arm}-rate-{self.rate:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", default="tiny-signs")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    names = given.arms.split(",")
    tried = [Job(name, 0, rate) for name in names for rate in RATES]
    jobs = [Job(name, int(seed)) for seed in given.seeds.split(",") for name in names]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for some in (tried, jobs):
            for job in pool.map(partial(run_job, given.out, given.start, given.limit), some):
                print("trained:", job.name, flush=True)
            choose_rates(given.out, names)


def run_job(out: Path, start: str, limit: int, job: Job) -> Job:
    """Train one run, unless it is complete."""
    torch.set_num_threads(1)
    folder = out / job.name
    if (folder / "trained").exists():
        return job
    rate = job.rate or json.loads((out / "rates.json").read_text())[job.arm]
    recipe = recipe_of(job, folder, start, rate)
    n_updates = TRIED if job.rate else 2 * MARKS[-1]
    recipe = replace(recipe, updates=min(n_updates, limit or n_updates))
    run = open_run(recipe, resume=(folder / "config.toml").exists())
    if job.rate:
        for _ in train(run):
            pass
    else:
        train_to_budget(run, folder, limit)
    (folder / "trained").touch()
    return job


def recipe_of(job: Job, folder: Path, start: str, rate: float) -> Recipe:
    arm = ARMS[job.arm]
    own = [f"model.path={start}", f"out={folder}", f"seed={job.seed}", f"training.lr={rate}"]
    return load_recipe(arm.recipe, [*WORLD, *arm.settings, *own])


def train_to_budget(run: Run, folder: Path, limit: int) -> None:
    """Train until both budgets are spent and all marks are passed, and keep weights on the way."""
    sampled, trained = token_counts(folder)
    for record in train(run):
        if record["phase"] == "evaluation":
            continue
        update = record["update"]
        before = sampled, trained
        sampled += record["n_sampled_tokens"] + record["n_role_tokens"]
        trained += record["n_trained_tokens"]
        if update in MARKS:
            keep(run, folder, f"{update}")
        for name, spent, now in (("sampled", before[0], sampled), ("trained", before[1], trained)):
            if spent < BUDGET <= now or (limit and update == limit):
                keep(run, folder, name)
        if update >= MARKS[-1] and min(sampled, trained) >= BUDGET:
            break


def keep(run: Run, folder: Path, name: str) -> None:
    """Save the present weights as a model folder."""
    path = folder / "kept" / name
    run.trainer.model.module.save_pretrained(path)
    run.trainer.model.chat.tokenizer.save_pretrained(path)


def token_counts(folder: Path) -> tuple[int, int]:
    """Return the tokens that a run has sampled and trained so far."""
    file = folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    sampled = sum(r.get("n_sampled_tokens", 0) + r.get("n_role_tokens", 0) for r in records)
    return sampled, sum(r.get("n_trained_tokens", 0) for r in records)


def choose_rates(out: Path, names: Sequence[str]) -> None:
    """Write the best learning rate of each arm: the one with the most right refined answers on validation problems."""
    best: dict[str, float] = {}
    for name in names:
        found: dict[float, float] = {}
        for rate in RATES:
            lines = (out / Job(name, 0, rate).name / "metrics.jsonl").read_text().splitlines()
            evaluations = [record for record in map(json.loads, lines) if record["phase"] == "evaluation"]
            found[rate] = evaluations[-1]["refined"]["value"]
        best[name] = max(found, key=lambda rate: found[rate])
        print(
            f"{name}: refined {', '.join(f'{100 * right:.1f} at {rate:g}' for rate, right in found.items())}",
            flush=True,
        )
    write_text(out / "rates.json", json.dumps(best, indent=1))


if __name__ == "__main__":
    main()
