"""The runs behind docs/results.md: all methods on the tiny model, with five seeds.

    python benchmarks/methods.py OUT [--seeds 0,1,2,3,4] [--arms grpo,gsr] [--workers 2] [--limit N]

Trains each arm for each seed with one thread (results do not depend on `--workers`) and skips what is in OUT already; an
interrupted run is resumed. `benchmarks/methods_table.py` evaluates the models and prints the tables. `--limit` makes
everything smaller, for a trial.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.commands.prepare import prepare as prepare_data
from rethink.jsonl import read_lines
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.run import open_run


@dataclass(frozen=True)
class Arm:
    """One way of training. Only for GSR: the `teacher` ("" for the start weights) and how often the data are prepared
    (`sets`), each time with different samples."""

    title: str
    recipe: str
    updates: int
    settings: tuple[str, ...] = ()
    teacher: str | None = None
    sets: int = 3


RRR = "demo-reflect-retry-reward"
LONGER = ("sampling.max_tokens=48",)
ARMS = {
    "grpo": Arm("GRPO", "demo-grpo", 160),
    "think-twice": Arm("ThinkTwice", "demo-think-twice", 160),
    "grpo-80": Arm("GRPO", "demo-grpo", 80),
    "grpo-long": Arm("GRPO", "demo-grpo", 160, LONGER),
    "think-twice-long": Arm("ThinkTwice", "demo-think-twice", 160, LONGER),
    "gsr": Arm("GSR, taught by GRPO's model", "demo-gsr", 975, teacher="grpo"),
    "think-tuning": Arm("ThinkTuning", "demo-think-tuning", 160),
    "think-tuning-off": Arm("ThinkTuning without feedback", "demo-think-tuning", 160, ("method.n_guided=0",)),
    "rrr-sampled": Arm("Reflect-Retry-Reward", RRR, 170),
    "grpo-320": Arm("GRPO", "demo-grpo", 320),
    "think-twice-320": Arm("ThinkTwice", "demo-think-twice", 320),
    "rrr-trained": Arm("Reflect-Retry-Reward", RRR, 900),
    "rrr-all": Arm("- retries rewarded too", RRR, 170, ("method.reward_retry=true",)),
    "rrr-shuffled": Arm("- shuffled reflections", RRR, 170, ("method.shuffle=true",)),
    "gsr-direct": Arm("- direct answers alone", "demo-gsr", 1700, ("method.lam=1",), teacher="grpo"),
    "gsr-self": Arm("- its own teacher", "demo-gsr", 975, teacher=""),
}
MAIN = tuple(name for name in ARMS if name not in ("rrr-all", "rrr-shuffled", "gsr-direct", "gsr-self"))
"""The arms of docs/results.md; the others are ablations."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--arms", default=",".join(MAIN))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    jobs = [(name, int(seed)) for name in given.arms.split(",") for seed in given.seeds.split(",")]
    teachers = [job for job in jobs if job[0] == "grpo"]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for some in (teachers, [job for job in jobs if job not in teachers]):
            for job in pool.map(partial(train_arm, given.out, given.limit), some):
                print("trained:", *job, flush=True)


def train_arm(out: Path, limit: int, job: tuple[str, int]) -> tuple[str, int]:
    """Train one arm with one seed, unless its last checkpoint exists."""
    torch.set_num_threads(1)
    name, seed = job
    arm, folder = ARMS[name], out / f"{name}-{seed}"
    n_updates = min(arm.updates, limit or arm.updates)
    if (folder / "trained").exists():
        return job
    settings = ['model.path="tiny-talk"', f"seed={seed}", f"out={folder}", f"updates={n_updates}", *arm.settings]
    settings += ["evaluation.n=1", "evaluation.problems.limit=10"]  # the tables have their own evaluation
    if arm.teacher is not None:
        settings += [f"problems.source={_data(out, arm, seed, limit)}", "problems.id=key"]
    run = open_run(load_recipe(arm.recipe, settings), resume=(folder / "config.toml").exists())
    for _ in train(run):
        pass
    (folder / "trained").touch()
    return job


def model_folder(out: Path, name: str, seed: int) -> Path:
    """Return the last checkpoint of a run."""
    return max((out / f"{name}-{seed}" / "checkpoints").iterdir())


def _data(out: Path, arm: Arm, seed: int, limit: int) -> Path:
    """Prepare GSR's two data sets `arm.sets` times, in one file."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    stem = _data_stem(arm, seed)
    whole = out / f"{stem}-times-{arm.sets}.parquet"
    model = f"teacher.path={model_folder(out, arm.teacher, seed)}" if arm.teacher else 'teacher.path=""'
    tables = []
    for n in range(arm.sets):
        part = out / f"{stem}.{n}.parquet"
        if not part.exists():
            settings = ['model.path="tiny-talk"', model, f"seed={6 * seed + n}"]
            prepare_data("demo-gsr-data", settings + ([f"problems.limit={max(limit, 64)}"] if limit else []), part)
        rows = parquet.read_table(part)
        keys = compute.binary_join_element_wise(rows["problem"].cast(pa.string()), pa.scalar(str(n)), "#")
        tables.append(rows.append_column("key", keys))
    parquet.write_table(pa.concat_tables(tables, promote_options="permissive"), whole)
    return whole


def _data_stem(arm: Arm, seed: int) -> str:
    return f"gsr-by-{arm.teacher or 'itself'}-{seed}"


def token_counts(out: Path, name: str, seed: int) -> tuple[int, int]:
    """Return the sampled and trained tokens of a run. Sampled ones include those of teachers and of prepared data, and all
    that its teacher's own training sampled."""
    records = [record for _, record in read_lines(out / f"{name}-{seed}" / "metrics.jsonl")]
    counts = [
        sum(int(r.get(key, 0)) for r in records) for key in ("n_sampled_tokens", "n_role_tokens", "n_trained_tokens")
    ]
    arm = ARMS[name]
    cards = [] if arm.teacher is None else [out / f"{_data_stem(arm, seed)}.{n}.md" for n in range(arm.sets)]
    prepared = sum(int(word) for card in cards for word in _token_line(card).split() if word.isdigit())
    of_teacher = token_counts(out, arm.teacher, seed)[0] if arm.teacher else 0
    return counts[0] + counts[1] + prepared + of_teacher, counts[2]


def _token_line(card: Path) -> str:
    return next(line for line in card.read_text().splitlines() if line.startswith("Sampled tokens"))


if __name__ == "__main__":
    main()
