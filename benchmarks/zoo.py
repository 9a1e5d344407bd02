"""All methods and objectives in one world, from one start model: the runs behind docs/results.md.

    python benchmarks/zoo.py OUT [--arms grpo,pag] [--seeds 0,1,2,3,4,5,6,7] [--stages trials,runs,ablations,longer]
        [--workers 2] [--limit N]

The study has four stages:

- `trials`: each arm is trained with each learning rate of the grid for 80 updates, with seed 0, and the rate with the best
  answers to validation problems is chosen: first answers and final ones, after one refinement, or after what the arm trains
  in its place. OUT/rates.json keeps the choice. `benchmarks/zoo_rates.json` has what was chosen for docs/results.md, so the
  other stages do not need this one.
- `runs`: each arm is trained with its rate and the seeds 0 to 4. The learning rate is constant, so a run can be compared at
  any point: weights are kept after 40, 80, 160 and 320 updates, and where the run has sampled, or trained, as many tokens
  as the budget, which is what GRPO needs for 160 updates. A run ends when both are reached and 160 updates are made, or
  after 320 updates.
- `ablations`: with the seeds 0, 1 and 2, 160 updates, and the learning rate of their method.
- `longer`: methods, objectives and an ablation are trained for 320 updates with the seeds 5, 6 and 7, which also shows
  whether differences that were found with the other seeds are found again.

Everything is kept in OUT; a stopped study continues where it was. One thread per run: results do not depend on `--workers`.
`--limit` makes everything smaller, for a trial. `benchmarks/zoo_evaluate.py` evaluates the weights; `zoo_table.py` and
`zoo_picture.py` show the results, and `zoo_page.py` writes the tables of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.commands.prepare import prepare
from rethink.jsonl import Record, write_text
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from zoo_arms import ARMS, START, WORLD

RATES = (5e-5, 1.5e-4, 4.5e-4)
BEYOND = {5e-5: 1.5e-5, 4.5e-4: 1.35e-3}
TRIED = 80
"""The learning rates that each arm is tried with, one more if the lowest or the highest of these is the best; for how many
updates."""

TIE = 0.01
"""Sums of two accuracies that differ by less are equal; their standard error is about three times as large."""

MARKS = (40, 80, 160, 320)
"""The numbers of updates after which weights are kept."""

BUDGET = 160 * 16 * 8 * 30
"""Tokens: 160 updates of GRPO, with 16 problems, eight replies to each and 30 tokens in each reply."""

TEACHER_MARK = "sampled"
"""The weights of a teacher: those of GRPO after as many sampled tokens as the budget."""

N_PREPARED = 2000
"""The number of problems that data are prepared from."""

SEEDS = (0, 1, 2, 3, 4)
"""The seeds of `runs`."""

SHORT = 160
"""The number of updates of ablations, and of all others at least."""

STAGES = ("trials", "runs", "ablations", "longer")

CHOSEN_RATES = Path(__file__).with_name("zoo_rates.json")
"""The learning rates that were chosen by the trials behind docs/results.md."""

THREE_SEEDS = (0, 1, 2)
"""The seeds of ablations."""

NEW_SEEDS = (5, 6, 7)
"""The seeds of runs that are trained until the last mark."""


@dataclass(frozen=True)
class Job:
    """A run of an arm. With `rate` None, the rate that was chosen for the arm. `goes_on`: until the last mark."""

    arm: str
    seed: int
    rate: float | None = None
    goes_on: bool = False

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}" if self.rate is None else f"{self.arm}-rate-{self.rate:g}"

    @property
    def n_updates(self) -> int:
        """The most updates that it makes."""
        if self.rate is not None:
            return TRIED
        return SHORT if ARMS[self.arm].of and not self.goes_on else MARKS[-1]

    @property
    def done(self) -> str:
        """The file that says that the job is complete."""
        return "trained-to-the-end" if self.goes_on else "trained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    names = [name for name in ARMS if name in given.arms.split(",")]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    stages = given.stages.split(",")
    if unknown := {*stages} - {*STAGES}:
        parser.error(f"no such stages: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for jobs in plan(given.out, names, seeds, stages):
            list(pool.map(partial(prepare_data, given.out, given.limit), needed_data(jobs)))
            list(pool.map(partial(start_cold, given.out, given.limit), needed_cold_starts(jobs)))
            for job in pool.map(partial(run_job, given.out, given.limit), jobs):
                print("trained:", job.name, flush=True)
            for name in {job.arm: None for job in jobs if job.rate}:
                choose_rate(given.out, name)


def plan(out: Path, names: Sequence[str], seeds: Sequence[int], stages: Sequence[str] = STAGES) -> Iterator[list[Job]]:
    """Yield lists of jobs. Those of a list need nothing but the jobs of the lists before it, which are done."""
    teachers = [name for name in names if any(ARMS[other].teacher == name for other in names)]
    parts = (teachers, [name for name in names if name not in teachers])
    for some in parts:
        methods = [name for name in some if not ARMS[name].of]
        if "trials" in stages:
            yield [Job(name, 0, rate) for name in methods for rate in RATES]
            yield [Job(name, 0, BEYOND[rates(out)[name]]) for name in methods if rates(out)[name] in BEYOND]
        if "runs" in stages:
            yield [Job(name, seed) for seed in SEEDS if seed in seeds for name in methods]
    few = [seed for seed in THREE_SEEDS if seed in seeds]
    if "ablations" in stages:
        yield [Job(name, seed) for seed in few for name in names if ARMS[name].of]
    new = [seed for seed in NEW_SEEDS if seed in seeds]
    for some in parts if "longer" in stages else ():
        methods = [name for name in some if ARMS[name].is_long or not ARMS[name].of]
        yield [Job(name, seed, goes_on=True) for seed in new for name in methods]


def run_job(out: Path, limit: int, job: Job) -> Job:
    """Train one run, unless it is complete."""
    torch.set_num_threads(1)
    folder = out / job.name
    if (folder / job.done).exists():
        return job
    arm = ARMS[job.arm]
    rate = job.rate or arm.rate or rates(out)[arm.of or job.arm]
    own = [f"out={folder}", f"seed={job.seed}", f"training.lr={rate}", f'evaluation.strategy="{arm.judged}"']
    if arm.cold:
        own.append(f"model.path={ColdStart(job.arm, job.seed).folder(out)}")
    elif arm.data:
        own.append(f"problems.source={Data(arm.data, arm.teacher, job.seed).file(out)}")
    own.append(f"updates={min(job.n_updates, limit or job.n_updates)}")
    recipe = load_recipe(arm.recipe, [*WORLD, *arm.settings, *own])
    run = open_run(recipe, resume=(folder / "config.toml").exists())
    if job.rate:
        for _ in train(run):
            pass
    else:
        train_to_budget(run, folder, MARKS[-1] if job.goes_on else SHORT, limit)
    (folder / job.done).touch()
    return job


@dataclass(frozen=True)
class Data:
    """The prepared data of an arm, for one seed. The data card says how many tokens were sampled."""

    recipe: str
    teacher: str
    seed: int

    def file(self, out: Path) -> Path:
        return out / "data" / f"{self.recipe}-{self.teacher or 'alone'}-{self.seed}.parquet"


def needed_data(jobs: Sequence[Job]) -> list[Data]:
    """Return the data that runs are trained on, each once."""
    needed: dict[Data, None] = {}
    for job in jobs:
        arm = ARMS[job.arm]
        if arm.data:
            needed[Data(arm.data, arm.teacher, job.seed)] = None
    return [*needed]


def prepare_data(out: Path, limit: int, data: Data) -> None:
    """Prepare data, unless they exist."""
    torch.set_num_threads(1)
    settings = [f"seed={data.seed}", f"problems.limit={100 * limit or N_PREPARED}"]
    if data.teacher == "start":
        settings.append(f"teacher.path={START}")
    elif data.teacher:
        settings.append(f"teacher.path={out / f'{data.teacher}-{data.seed}' / 'kept' / TEACHER_MARK}")
    if not data.file(out).with_suffix(".md").exists():
        prepare(data.recipe, settings, data.file(out))


@dataclass(frozen=True)
class ColdStart:
    """The cold start of an arm, for one seed."""

    arm: str
    seed: int

    def folder(self, out: Path) -> Path:
        return out / "cold" / f"{self.arm}-{self.seed}"


def needed_cold_starts(jobs: Sequence[Job]) -> list[ColdStart]:
    """Return the cold starts that runs begin from, each once."""
    return [*dict.fromkeys(ColdStart(job.arm, job.seed) for job in jobs if ARMS[job.arm].cold)]


def start_cold(out: Path, limit: int, cold: ColdStart) -> None:
    """Train a cold start, unless it is complete."""
    torch.set_num_threads(1)
    arm, folder = ARMS[cold.arm], cold.folder(out)
    if (folder / "trained").exists():
        return
    data = Data(arm.data, arm.teacher, cold.seed).file(out)
    own = [f"out={folder}", f"seed={cold.seed}", f"problems.source={data}", WORLD[0]]
    own += [f"updates={limit}"] if limit else []
    run = open_run(load_recipe(arm.cold, [*arm.settings, *own]), resume=(folder / "config.toml").exists())
    for _ in train(run):
        pass
    (folder / "trained").touch()


def train_to_budget(run: Run, folder: Path, shortest: int, limit: int) -> None:
    """Train until both budgets are spent and at least `shortest` updates are made, and keep weights on the way. Then save a
    checkpoint, from which the run can go on."""
    records = update_records(folder)
    sampled, trained = n_sampled(records), trained_before(folder) + n_trained(records)
    for record in train(run):
        if record["phase"] == "evaluation":
            continue
        update = record["update"]
        before = sampled, trained
        sampled += n_sampled([record])
        trained += n_trained([record])
        if update in MARKS:
            keep(run, folder, f"{update}")
        for name, spent, now in (("sampled", before[0], sampled), ("trained", before[1], trained)):
            if spent < BUDGET <= now or (limit and update == limit):
                keep(run, folder, name)
        if update >= shortest and min(sampled, trained) >= BUDGET:
            run.interrupted = True


def keep(run: Run, folder: Path, name: str) -> None:
    """Save the present weights as a model folder."""
    path = folder / "kept" / name
    run.trainer.model.module.save_pretrained(path)
    run.trainer.model.chat.tokenizer.save_pretrained(path)


def update_records(folder: Path) -> list[Record]:
    """Return the records of a run's updates so far."""
    file = folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [record for record in records if record["phase"] != "evaluation"]


def n_sampled(records: Iterable[Record]) -> int:
    """Return the tokens that were sampled for updates, those of other roles included."""
    return sum(int(record["n_sampled_tokens"] + record["n_role_tokens"]) for record in records)


def n_trained(records: Iterable[Record]) -> int:
    return sum(int(record["n_trained_tokens"]) for record in records)


def trained_before(folder: Path) -> int:
    """Return the tokens that a run's cold start has trained; 0 if it has none."""
    cold = folder.parent / "cold" / folder.name
    return n_trained(update_records(cold))


def choose_rate(out: Path, arm: str) -> None:
    """Keep the best learning rate of an arm: the most right answers to validation problems, first and final ones."""
    found: dict[float, float] = {}
    for rate in sorted({*RATES, *BEYOND.values()}):
        folder = out / Job(arm, 0, rate).name
        if not (folder / "trained").exists():
            continue
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        last = [record for record in map(json.loads, lines) if record["phase"] == "evaluation"][-1]
        solve, final = last["solve"]["value"], final_accuracy(last, ARMS[arm].judged)
        found[rate] = solve + final
        print(f"{arm} at {rate:g}: {100 * solve:.1f}, {100 * final:.1f}", flush=True)
    write_text(out / "rates.json", json.dumps(own_rates(out) | {arm: best_rate(found)}, indent=1))


def best_rate(found: Mapping[float, float]) -> float:
    """Return the rate with the largest value or, if a lower one is as good within `TIE`, that: the runs are longer than the
    trials, and a higher rate is the first to do damage."""
    best = max(found.values())
    return min(rate for rate, value in found.items() if value >= best - TIE)


def final_accuracy(record: Record, strategy: str) -> float:
    """Return the accuracy of a strategy in the record of an evaluation."""
    found = record["refined"] if strategy == "refine" else record["strategies"][strategy]
    return float(found["value"])


def rates(out: Path) -> dict[str, float]:
    """Return the learning rate of each arm: the one chosen in OUT or, before that, for docs/results.md."""
    return {**json.loads(CHOSEN_RATES.read_text()), **own_rates(out)}


def own_rates(out: Path) -> dict[str, float]:
    """Return the learning rates that the trials in OUT have chosen."""
    file = out / "rates.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


if __name__ == "__main__":
    main()
