"""A real model trained in the world of docs/results.md: GRPO and methods that train refinement, at equal tokens.

    PYTHONPATH=benchmarks python benchmarks/real/training.py MODEL OUT [--arms grpo,think-twice] [--seeds 0] [--minutes 60]
        [key=value ...]

MODEL is a GGUF file, a folder or a hub name. First it imitates drafts and refinements of the signs generator, for
`--start-updates` updates, because a small model cannot do the task; OUT/start is that run, which trains all weights. All
other runs begin with its weights; with `--start-updates 0`, with those of MODEL. Their settings are those of
`training.toml` beside this file; key=value replaces one for all arms. Each run is trained until it has sampled `--tokens`
tokens, evaluation excluded, and answers held-out problems before the first update, after every `evaluation.every` updates,
and at the end. Rows of evaluations are written to benchmarks/results/real_training.csv, those of a run in place of its
earlier ones, and its metrics to benchmarks/real/runs.

Runs are in OUT/ARM-SEED. After `--minutes`, the run saves a checkpoint and the command ends; the same command continues to
the bit. Arms take turns: the one that has sampled the fewest tokens goes on, `--turn` tokens at a time, so a stopped study
can be compared at equal tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from real.result_files import RESULTS, Row, processor, read_rows, replace_rows
from rethink.commands.evaluate import origin_of_weights
from rethink.jsonl import Record
from rethink.recipe import Recipe, load_recipe
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.training.update_log import evaluate_held_out

RECIPE = Path(__file__).with_name("training.toml")
FILE = RESULTS / "real_training.csv"
KEPT = Path(__file__).with_name("runs")
KEY = ("model", "task", "arm", "seed")
ARMS = {
    "grpo": ('method.name="grpo"',),
    "think-twice": ('method.name="think_twice"',),
    "score": ('method.name="score"',),
    "pag": ('method.name="pag"',),
}
"""The arms by name, with what differs from the recipe."""

IMITATION = (
    "lora.rank=0",
    'method={name="imitate"}',
    "problems_per_batch=16",
    "training.lr=1e-4",
    'training.schedule="linear"',
    "evaluation.every=0",
    "evaluation.at_start=false",
)
"""What differs from the recipe in the imitation that all runs begin with."""

STAGES = ("sample_s", "grade_s", "update_s")
RATES = ("solve", "refined", "fix", "damage")


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    model: str
    out: Path
    settings: tuple[str, ...]
    tokens: int
    start_updates: int
    deadline: float

    @property
    def start(self) -> Path:
        """The folder of the imitation that all runs begin with."""
        return self.out / "start"

    def folder(self, arm: str, seed: int) -> Path:
        return self.out / f"{arm}-{seed}"

    def recipe(self, arm: str, seed: int) -> Recipe:
        path = self.start if self.start_updates else self.model
        own = [f"model.path={path}", f"out={self.folder(arm, seed)}", f"seed={seed}"]
        return load_recipe(str(RECIPE), [*ARMS[arm], *own, *self.settings])

    def start_recipe(self) -> Recipe:
        own = [f"model.path={self.model}", f"out={self.start}", f"updates={self.start_updates}"]
        return load_recipe(str(RECIPE), [*self.settings, *own, *IMITATION])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="settings of a recipe, as key=value")
    parser.add_argument("--arms", default="grpo,think-twice", help=", ".join(ARMS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tokens", type=int, default=100_000, help="sampled in training by each run")
    parser.add_argument("--turn", type=int, default=10_000, help="tokens before the next run takes its turn")
    parser.add_argument("--start-updates", type=int, default=40, help="of imitation")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--csv", type=Path, default=FILE)
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of the runs' metrics")
    given = parser.parse_intermixed_args(arguments)
    deadline = time.monotonic() + 60 * given.minutes
    study = Study(given.model, given.out, tuple(given.settings), given.tokens, given.start_updates, deadline)
    runs = [(arm, int(seed)) for seed in given.seeds.split(",") for arm in given.arms.split(",")]
    if unknown := {arm for arm, _ in runs} - {*ARMS}:
        parser.error(f"no such arms: {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    imitate(study)
    while time.monotonic() < deadline:
        spent = {run: n_sampled(metrics(study.folder(*run))) for run in runs}
        open_runs = [run for run in runs if spent[run] < study.tokens]
        if not open_runs:
            break
        arm, seed = min(open_runs, key=spent.__getitem__)
        go_on(study, arm, seed, spent[arm, seed] + given.turn)
        write_rows(study, arm, seed, given.csv)
        given.kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(study.folder(arm, seed) / "metrics.jsonl", given.kept / f"{arm}-{seed}.jsonl")
    print(table(read_rows(given.csv)))


def imitate(study: Study) -> None:
    """Train the start of all runs, unless it is complete or the time is up."""
    if len([*updates_of(metrics(study.start))]) >= study.start_updates:
        return
    run = open_run(study.start_recipe(), resume=(study.start / "config.toml").exists())
    for record in updates_of(train(run)):
        print(f"start: update {record['update']} of {study.start_updates}", flush=True)
        run.interrupted = time.monotonic() > study.deadline


def go_on(study: Study, arm: str, seed: int, until: int) -> None:
    """Train a run until it has sampled so many tokens, or the time is up. Then save a checkpoint."""
    folder = study.folder(arm, seed)
    run = open_run(study.recipe(arm, seed), resume=(folder / "config.toml").exists())
    sampled, start = n_sampled(metrics(folder)), time.monotonic()
    for record in updates_of(train(run)):
        sampled += n_sampled([record])
        if sampled >= min(until, study.tokens) or time.monotonic() > study.deadline:
            run.interrupted = True
    if sampled >= study.tokens:
        evaluate_held_out(run)
    print(f"{arm}-{seed}: {sampled:,} tokens sampled, {time.monotonic() - start:.0f} s", flush=True)


def metrics(folder: Path) -> list[Record]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def updates_of(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records of updates, not those of evaluations."""
    return (record for record in records if record["phase"] != "evaluation")


def n_sampled(records: Sequence[Record]) -> int:
    """Return the tokens that were sampled for updates, those of other roles included."""
    return sum(int(record["n_sampled_tokens"] + record["n_role_tokens"]) for record in updates_of(records))


def write_rows(study: Study, arm: str, seed: int, file: Path) -> None:
    """Write a row for each evaluation of a run, in place of its earlier rows."""
    recipe = study.recipe(arm, seed)
    source = recipe.evaluation.problems
    assert source is not None
    about = {
        "date": str(date.today()),
        "processor": processor(),
        "model": Path(study.model).name,
        "weights": origin_of_weights(recipe, study.model) or "original weights",
        "task": source.source,
        "arm": arm,
        "seed": seed,
    }
    rows = [about | row for row in evaluations(metrics(study.folder(arm, seed)))]
    if rows:
        replace_rows(file, rows, KEY)


def evaluations(records: Sequence[Record]) -> list[dict[str, object]]:
    """Return what each evaluation has found, and what training had cost by then: tokens, and seconds without evaluation."""
    found: list[dict[str, object]] = []
    for place, record in enumerate(records):
        if record["phase"] == "evaluation":
            before = [*updates_of(records[:place])]
            row: dict[str, object] = {"update": record["update"], "n_problems": record["n_problems"]}
            row["sampled_tokens"] = n_sampled(before)
            row["trained_tokens"] = sum(int(update["n_trained_tokens"]) for update in before)
            row["seconds"] = round(sum(float(update[stage]) for update in before for stage in STAGES), 1)
            for rate in RATES:
                row |= {name: round(record[rate][end], 4) for name, end in ends(rate)}
            found.append(row)
    return found


def ends(rate: str) -> list[tuple[str, str]]:
    """Return the columns of a rate, and where its record has them."""
    return [(rate, "value"), (f"{rate}_low", "low"), (f"{rate}_high", "high")]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as markdown, rates in percent with their intervals over problems."""
    lines = ["| run | update | sampled tokens | minutes | " + " | ".join(RATES) + " |", "|---" * (4 + len(RATES)) + "|"]
    for row in rows:
        cells = [f"{row['arm']}, seed {row['seed']}", row["update"], f"{int(row['sampled_tokens']):,}"]
        cells.append(f"{float(row['seconds']) / 60:.0f}")
        for rate in RATES:
            value, low, high = (100 * float(row[name]) for name, _ in ends(rate))
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
