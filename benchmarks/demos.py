"""Minutes of each demo recipe, run as a user would: `python benchmarks/demos.py OUT [--workers 2] [--recipes a,b]`.

Each recipe runs in OUT with its own settings; with two workers, two run at a time, each on half of the cores. The time is
that of all its commands: preparing data and a cold start count, the training of a teacher does not. Rows go to
`benchmarks/results/demos.csv` as they come, and recipes that have one are left out. Prints a table.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from real.result_files import processor, to_csv
from rethink.jsonl import write_text
from zoo_table import markdown

RESULTS = Path(__file__).parent / "results" / "demos.csv"
TEACHER = "demo-grpo-signs"
ALONE = (
    "demo-think-twice-signs",
    "demo-score",
    "demo-pag",
    "demo-self-verification",
    "demo-rltf",
    "demo-erl",
    "demo-critique-grpo",
    "demo-vl-rethinker",
    "demo-think-tuning",
    "demo-reflect-retry-reward",
    "demo-self-distillation",
    "demo-learn-to-merge",
)
PREPARED: dict[str, tuple[tuple[str, ...], ...]] = {
    "demo-ton": (("prepare", "demo-ton-data", "--out", "runs/demo-ton.parquet"), ("train", "demo-ton-start")),
    "demo-gsr": (("prepare", "demo-gsr-data", "--out", "runs/demo-gsr.parquet"),),
    "demo-supercorrect": (("prepare", "demo-supercorrect-data", "--out", "runs/demo-supercorrect.parquet"),),
}
"""What comes before the training of a recipe, besides its teacher."""


@dataclass(frozen=True)
class Row:
    """A recipe with the seconds of its commands, and where they were measured."""

    recipe: str
    seconds: float
    threads: int
    processor: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--recipes", default=",".join((TEACHER, *PREPARED, *ALONE)))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // given.workers)
    measure = partial(measured, given.out, threads, processor())
    known = read_rows(given.results) if given.results.exists() else []
    wanted = {*given.recipes.split(",")} - {row.recipe for row in known}
    with ThreadPoolExecutor(given.workers) as pool:
        for recipes in ([TEACHER], [*PREPARED, *ALONE]):
            for row in pool.map(measure, [recipe for recipe in recipes if recipe in wanted]):
                known.append(row)
                write_rows(given.results, known)
                print(f"{row.recipe}: {row.seconds:.0f} s", flush=True)
    print(demo_table(known))


def commands(recipe: str) -> list[list[str]]:
    """Return the arguments of `rethink` for a recipe."""
    return [*map(list, PREPARED.get(recipe, ())), ["train", recipe]]


def measured(out: Path, threads: int, where: str, recipe: str) -> Row:
    """Run a recipe. Raise CalledProcessError if a command fails; OUT/RECIPE.txt has what they printed."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with (out / f"{recipe}.txt").open("w") as printed:
        for arguments in commands(recipe):
            line = [sys.executable, "-m", "rethink", *arguments]
            subprocess.run(line, cwd=out, env=env, stdout=printed, stderr=printed, check=True)
    return Row(recipe, round(time.perf_counter() - start, 1), threads, where)


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    write_text(file, to_csv([asdict(row) for row in rows]))


def read_rows(file: Path = RESULTS) -> list[Row]:
    found: list[Row] = []
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            found.append(Row(line["recipe"], float(line["seconds"]), int(line["threads"]), line["processor"]))
    return found


def demo_table(rows: Sequence[Row]) -> str:
    """Return a line per recipe, the fastest first."""
    lines = [["recipe", "minutes", "cores"]]
    for row in sorted(rows, key=lambda row: row.seconds):
        lines.append([f"`{row.recipe}`", f"{row.seconds / 60:.1f}", str(row.threads)])
    return markdown(lines)


if __name__ == "__main__":
    main()
