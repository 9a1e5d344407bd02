"""Try to make rethink lose work, hang, run foreign code, or call a wrong answer right, and count what happens.

    python benchmarks/drill.py OUT [--parts kills,damage,answers,escapes,servers] [--kills 200] [--flips 100]
                               [--answers 10000] [--faults 200] [--seed 0]

kills     end training runs and other commands at random moments, resume or repeat them, and compare every file
damage    flip bits of checkpoints and logs, then use them
answers   grade hostile replies, and real ones with a changed answer
escapes   let code loose in the workers that grade
servers   evaluate against servers that fail in many ways

Each part writes OUT/PART.jsonl, one line per trial, and continues where it was stopped. The table is printed at the end.
The parts use helpers of tests/support. They start processes, but write only below OUT.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from drill_commands import FAILURES, HELD, Trial
from rethink import jsonl

PARTS = ("kills", "damage", "answers", "escapes", "servers")
Part = Callable[[Path, int, int], Iterator[Callable[[], Trial]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--escapes", type=int, default=1000, help="at most this many")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sizes = {"damage": given.flips, "servers": given.faults}
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for part in given.parts.split(","):
        run_part(part, out, sizes.get(part) or getattr(given, part), given.seed)
    print(table(out))


def run_part(part: str, out: Path, n: int, seed: int) -> None:
    """Run what is missing of a part: its module yields a function per trial, in the same order each time."""
    trials: Part = importlib.import_module(f"drill_{part}").trials
    file = out / f"{part}.jsonl"
    done = sum(1 for _ in jsonl.read_lines(file)) if file.exists() else 0
    scratch = out / part
    scratch.mkdir(exist_ok=True)
    for i, run in enumerate(trials(scratch, n, seed)):
        if i < done:
            continue
        start = time.monotonic()
        trial = run()
        jsonl.append(file, [{**asdict(trial), "seconds": round(time.monotonic() - start, 3)}])
        if trial.outcome != HELD:
            print(f"{part}: {trial.outcome}: {trial.name}: {trial.detail}", flush=True)


def table(out: Path) -> str:
    """Return the counts per part and kind as markdown."""
    lines = ["| part | kind | trials | held | " + " | ".join(FAILURES) + " | longest trial (s) |"]
    lines.append("|---" * (5 + len(FAILURES)) + "|")
    for part in PARTS:
        file = out / f"{part}.jsonl"
        if not file.exists():
            continue
        outcomes: dict[str, Counter[str]] = {}
        longest: Counter[str] = Counter()
        for _, record in jsonl.read_lines(file):
            outcomes.setdefault(record["kind"], Counter())[record["outcome"]] += 1
            longest[record["kind"]] = max(longest[record["kind"]], record["seconds"])
        for kind, counts in outcomes.items():
            numbers = [counts.total(), counts[HELD], *(counts[failure] for failure in FAILURES)]
            lines.append(f"| {part} | {kind} | {' | '.join(map(str, numbers))} | {longest[kind]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
