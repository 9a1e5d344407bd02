"""All methods and objectives in one world, from one start model: the runs behind docs/results.md.

    python benchmarks/zoo.py OUT [--arms grpo,pag] [--seeds 0,1,2,3,4] [--workers 2] [--limit N]

First, each arm is trained with each learning rate of the grid for 80 updates, with seed 0, and the rate with the best
answers to validation problems is chosen: first answers and final ones, after one refinement, or after what the arm trains
in its place (OUT/rates.json). Then each arm is trained with
that rate and each seed. The learning rate is constant, so a run can be compared at any point: weights are kept after 40,
80, 160 and 320 updates, and where the run has sampled, or trained, as many tokens as the budget, which is what GRPO needs
for 160 updates. A run ends when both are reached and 160 updates are made, or after 320 updates. At the end, methods go on
to 320 with the seeds 0, 1 and 2. Ablations have these seeds, 160 updates, and the learning rate of their method.

Everything is kept in OUT; a stopped study continues where it was. One thread per run: results do not depend on `--workers`.
`--limit` makes everything smaller, for a trial. `benchmarks/zoo_evaluate.py` evaluates the weights; `zoo_table.py` and
`zoo_picture.py` show the results.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
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

START = "tiny-signs"
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

SHORT = 160
"""The number of updates of ablations, and of all others at least."""

THREE_SEEDS = (0, 1, 2)
"""The seeds of ablations, and of methods that are trained for as long as the last mark."""


WORLD = (
    'evaluation.problems={source="signs",split="validation"}',
    "evaluation.n=2",
    "evaluation.sampling={temperature=1.0,max_tokens=100}",
    'prompts.reflect="check"',
    'prompts.retry="again"',
    'prompts.critique="check"',
    'prompts.improve="again"',
    'prompts.satisfied="right"',
    'prompts.merge="{question} {candidates} again"',
    'prompts.candidate="? {candidate}"',
    'prompts.between=" "',
    'training.schedule="constant"',
    "training.warmup_updates=5",
    "checkpoint_every=1000",
    "prompts.show_reasoning=false",
)


@dataclass(frozen=True)
class Arm:
    """One way of training.

    - `title`: its name in tables.
    - `recipe`, `settings`: a shipped recipe, and what differs from it.
    - `data`: the recipe that prepares its data.
    - `teacher`: the arm whose model is the teacher of `data`; "start" is the start model.
    - `of`: the arm that it is an ablation of.
    - `cold`: the recipe of a cold start on its data, at the recipe's learning rate.
    - `is_method`: whether it is a method, not an objective.
    - `judged`: the strategy whose answers choose the learning rate, besides first answers.
    """

    title: str
    recipe: str
    settings: tuple[str, ...] = ()
    data: str = ""
    teacher: str = ""
    of: str = ""
    cold: str = ""
    is_method: bool = True
    judged: str = "refine"


GOLD_VERDICTS = ('method.if_right="right again"', 'method.if_wrong="wrong again"')
CENTERED = ('method.solve.advantage="center"', "method.solve.pass_k=0")
JUDGED = {
    "pag": "self-refine",
    "self-verification": "self-refine",
    "reflect-retry-reward": "reflect",
    "learn-to-merge": "merge:3",
}
"""The strategies of methods that train another kind of final answer than refinements."""

OBJECTIVES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "rloo")
ARMS: dict[str, Arm] = {
    "grpo": Arm("GRPO", "demo-grpo-signs"),
    "think-twice": Arm("ThinkTwice", "demo-think-twice-signs"),
}
for _name, _title in (
    ("score", "SCoRe"),
    ("pag", "PAG"),
    ("self-verification", "self-verification"),
    ("rltf", "RLTF-SD"),
    ("erl", "ERL"),
    ("critique-grpo", "Critique-GRPO"),
    ("vl-rethinker", "VL-Rethinker"),
    ("think-tuning", "ThinkTuning"),
    ("reflect-retry-reward", "Reflect, Retry, Reward"),
    ("self-distillation", "self-distillation"),
    ("learn-to-merge", "learning to merge"),
):
    ARMS[_name] = Arm(_title, f"demo-{_name}", judged=JUDGED.get(_name, "refine"))
ARMS["ton"] = Arm("TON", "demo-ton", data="demo-ton-data", cold="demo-ton-start")
ARMS["gsr"] = Arm("GSR", "demo-gsr", data="demo-gsr-data", teacher="grpo", judged="merge:3")
ARMS["supercorrect"] = Arm("SuperCorrect", "demo-supercorrect", data="demo-supercorrect-data", teacher="grpo")
for _name in OBJECTIVES:
    ARMS[f"objective-{_name}"] = Arm(
        f"objective {_name}", "demo-grpo-signs", (f"method.objective={_name}",), is_method=False
    )
for _name, _title, _of, _settings in (
    ("grpo-100", "GRPO with room for 100 tokens", "grpo", ("sampling.max_tokens=100",)),
    ("gold-verdicts", "ThinkTwice, verdicts in the prompt", "think-twice", GOLD_VERDICTS),
    ("wrong-drafts", "ThinkTwice, wrong drafts first", "think-twice", ("method.pick=wrong_first",)),
    ("right-drafts", "ThinkTwice, right drafts first", "think-twice", ("method.pick=right_first",)),
    ("score-one-stage", "SCoRe without the first stage", "score", ("method.n_first_stage=0",)),
    ("score-no-bonus", "SCoRe without the bonus", "score", ("method.alpha=0",)),
    ("pag-revise-all", "PAG, revising everything", "pag", ("method.revise_all=true",)),
    ("vl-rethinker-no-replay", "VL-Rethinker without replay", "vl-rethinker", ("method.replay.updates=0",)),
    ("vl-rethinker-no-forcing", "VL-Rethinker without forcing", "vl-rethinker", ("method.rethink.share=0",)),
    ("think-tuning-alone", "ThinkTuning without feedback", "think-tuning", ("method.n_guided=0",)),
    ("reward-retry", "Reflect, Retry, Reward: retries too", "reflect-retry-reward", ("method.reward_retry=true",)),
    ("shuffled", "Reflect, Retry, Reward: shuffled reflections", "reflect-retry-reward", ("method.shuffle=true",)),
    ("rltf-alone", "RLTF without imitation", "rltf", ("method.imitation_coef=0",)),
    ("merge-centered", "learning to merge, no pass@k", "learn-to-merge", CENTERED),
    ("self-distillation-mixed", "self-distillation with GRPO", "self-distillation", ("method.lam=0.9",)),
    ("ton-no-dropout", "TON without dropout", "ton", ("method.dropout=0",)),
    ("gsr-direct", "GSR, direct answers only", "gsr", ("method.lam=1",)),
    ("gsr-no-teacher", "GSR without a teacher", "gsr", ()),
):
    _of_arm = ARMS[_of]
    ARMS[_name] = replace(_of_arm, title=_title, settings=(*_of_arm.settings, *_settings), of=_of)
ARMS["gsr-no-teacher"] = replace(ARMS["gsr-no-teacher"], teacher="start")
"""The arms by name. A teacher is before its pupils, and a method before its ablations."""


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
    def done(self) -> str:
        """The file that says that the job is complete."""
        return "trained-to-the-end" if self.goes_on else "trained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    names = [name for name in ARMS if name in given.arms.split(",")]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for jobs in plan(given.out, names, seeds):
            list(pool.map(partial(prepare_data, given.out, given.limit), needed_data(jobs)))
            list(pool.map(partial(start_cold, given.out, given.limit), needed_cold_starts(jobs)))
            for job in pool.map(partial(run_job, given.out, given.limit), jobs):
                print("trained:", job.name, flush=True)
            for name in {job.arm: None for job in jobs if job.rate}:
                choose_rate(given.out, name)


def plan(out: Path, names: Sequence[str], seeds: Sequence[int]) -> Iterator[list[Job]]:
    """Yield lists of jobs. Those of a list need nothing but the jobs of the lists before it, which are done."""
    teachers = [name for name in names if any(ARMS[other].teacher == name for other in names)]
    for some in (teachers, [name for name in names if name not in teachers]):
        methods = [name for name in some if not ARMS[name].of]
        yield [Job(name, 0, rate) for name in methods for rate in RATES]
        yield [Job(name, 0, BEYOND[rates(out)[name]]) for name in methods if rates(out)[name] in BEYOND]
        yield [Job(name, seed) for seed in seeds for name in methods]
    few = [seed for seed in THREE_SEEDS if seed in seeds]
    yield [Job(name, seed) for seed in few for name in names if ARMS[name].of]
    methods = [name for name in names if ARMS[name].is_method and not ARMS[name].of]
    yield [Job(name, seed, goes_on=True) for seed in few for name in methods]


def run_job(out: Path, limit: int, job: Job) -> Job:
    """Train one run, unless it is complete."""
    torch.set_num_threads(1)
    folder = out / job.name
    if (folder / job.done).exists():
        return job
    arm = ARMS[job.arm]
    rate = job.rate or rates(out)[arm.of or job.arm]
    own = [f"out={folder}", f"seed={job.seed}", f"training.lr={rate}", f'evaluation.strategy="{arm.judged}"']
    if arm.cold:
        own.append(f"model.path={ColdStart(job.arm, job.seed).folder(out)}")
    elif arm.data:
        own.append(f"problems.source={Data(arm.data, arm.teacher, job.seed).file(out)}")
    n_updates = TRIED if job.rate else SHORT if arm.of else MARKS[-1]
    own.append(f"updates={min(n_updates, limit or n_updates)}")
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
    write_text(out / "rates.json", json.dumps(rates(out) | {arm: best_rate(found)}, indent=1))


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
    file = out / "rates.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


if __name__ == "__main__":
    main()
