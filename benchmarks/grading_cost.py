"""Time one algebra comparison and one answer to a reasoning-gym task, before and after a change of the code.

    git worktree add /tmp/before 9da4065
    taskset -c 1 python benchmarks/grading_cost.py /tmp/before/src src --n 300

Each version of the code runs in its own process. The answers alternate between them, so both see the same load. The
CPU time says more than the median where other programs compute.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ANSWERING = """
import sys, time
import rethink
from rethink.settings import ProblemSource

(problem,) = rethink.load_problems(ProblemSource(source="gym:chain_sum", limit=1))
def algebra(n): return rethink.grade(rf"\\boxed{{x^2 + {n}x}}", gold=rf"x(x + {n})")
def gym(n): return problem.verify(f"<answer>{n + 10**9}</answer>", problem.gold)

for line in sys.stdin:
    kind, n = line.split()
    start = time.perf_counter()
    verdict = {"algebra": algebra, "gym": gym}[kind](int(n))
    seconds = time.perf_counter() - start
    assert verdict.right is (kind == "algebra"), verdict
    print(seconds, flush=True)
"""
N_WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="folders that hold the package rethink")
    parser.add_argument("--n", type=int, default=300, help="answers of each kind")
    options = parser.parse_args()
    processes = [start(source) for source in options.sources]
    for kind in ("algebra", "gym"):
        for n in range(2, 2 + N_WARM_UP):
            for process in processes:
                time_one(process, kind, n)
        times: list[list[float]] = [[] for _ in processes]
        before = [cpu_seconds(process.pid) for process in processes]
        for n in range(100, 100 + options.n):
            for process, found in zip(processes, times, strict=True):
                found.append(time_one(process, kind, n))
        computing = [cpu_seconds(process.pid) - start for process, start in zip(processes, before, strict=True)]
        for source, found, cpu in zip(options.sources, times, computing, strict=True):
            low, middle, high = statistics.quantiles(found, n=4)
            spread = f"quartiles {1000 * low:.1f}, {1000 * high:.1f}"
            print(
                f"{kind:8} {source}: median {1000 * middle:.1f} ms ({spread}); {1000 * cpu / options.n:.1f} ms of CPU"
            )
    for process in processes:
        process.communicate()


def start(source: str) -> subprocess.Popen[str]:
    """Start a process that grades with the code in a folder."""
    code = f"import sys; sys.path.insert(0, {source!r})\n{ANSWERING}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def time_one(process: subprocess.Popen[str], kind: str, n: int) -> float:
    """Return the seconds that one new answer takes."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{kind} {n}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, of its children and of what they waited for."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(entry.name) == pid or int(fields[1]) == pid:
                    total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    main()
