"""Everything to be known about one GPU, in stages: `python benchmarks/gpu.py OUT`.

    tests              correctness: the tests marked `gpu` (needs pytest)
    graphs             log-probs of a small model against float64, with and without CUDA graphs
    sampling NAME      decoding at 1, 32 and 256 rows, against the memory bandwidth and transformers' `generate`
    training NAME      ThinkTwice against the rate of products, by size of micro-batches; memory against the plan
    grpo, think_twice  SmolLM2-135M-Instruct on GSM8K, as many updates as fit the time (--model FILE, --gsm8k FOLDER)

Models of the middle stages are random, with 0.6 and 4 billion parameters. Each stage is a process that prints, and saves
OUT/STAGE.json when it ends; a stage that has ended well is not repeated, and a failed one stops no other. The exit
code is 1 if a stage failed or was left out for time, and 2 without a CUDA device. `--device cpu --tiny` runs the same code
on tiny models, as a test of the program; `--stages` chooses stages, and with one stage runs it in this process.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

import gpu_real
import gpu_speed

LIMIT_S = 570
"""Seconds after which nothing runs any more; no stage starts in the last MIN_S of them."""

MIN_S, STAGE_S = 40, 180
"""The least seconds for a stage, and the most: one that hangs must not take the time of the others."""

ROOT = Path(__file__).parents[1]
REAL = ("grpo", "think_twice")


def main() -> int:
    given = parse()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is here; `--device cpu --tiny` runs the same code on tiny models", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = given.stages.split(",") if given.stages else stage_names(tiny=given.tiny)
    unknown = set(chosen) - {*stage_names(tiny=given.tiny)}
    if unknown:
        print(f"unknown stages: {', '.join(sorted(unknown))}; known: {', '.join(stage_names(tiny=given.tiny))}")
        return 2
    if len(chosen) == 1:
        return run_stage(chosen[0], given)
    return run_all(chosen, given)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stages", default="", help="names with commas between them; all by default")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="tiny models, to test the program itself")
    parser.add_argument("--model", type=Path, help="GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("--gsm8k", type=Path, help="folder with train.parquet and test.parquet")
    parser.add_argument("--seconds", type=float, default=45, help="of training in each of the last two stages")
    return parser.parse_args()


def stage_names(*, tiny: bool) -> list[str]:
    """Return the names of all stages, in order."""
    small, large = (plan.workload.name for plan in plans(tiny=tiny))
    first = ("tests", "graphs", f"sampling {small}", f"training {small}")
    return [*first, *REAL, f"sampling {large}", f"training {large}"]


def plans(*, tiny: bool) -> tuple[gpu_speed.Plan, ...]:
    return gpu_speed.TINY if tiny else gpu_speed.PLANS


def run_all(chosen: list[str], given: argparse.Namespace) -> int:
    """Run each stage that has no result yet in a process, so that a crash or its memory ends with it."""
    start, failed = time.monotonic(), 0
    for name in chosen:
        if is_done(given.out, name):
            print(f"== {name}: done before", flush=True)
            continue
        left_s = LIMIT_S - (time.monotonic() - start)
        if left_s < MIN_S:
            print(f"== {name}: left out, time is up", flush=True)
            failed += 1
            continue
        print(f"== {name}", flush=True)
        began = time.monotonic()
        command = [sys.executable, __file__, *sys.argv[1:], "--stages", name]
        try:
            code = subprocess.run(command, check=False, timeout=min(STAGE_S, left_s)).returncode
        except subprocess.TimeoutExpired:
            code = -1
        failed += code != 0
        print(f"== {name}: {'failed' if code else 'ended'} after {time.monotonic() - began:.0f} s", flush=True)
    return int(failed > 0)


def is_done(out: Path, name: str) -> bool:
    """Return whether a stage has a result; one that failed or was left out is tried again."""
    file = result_file(out, name)
    if not file.is_file():
        return False
    found = json.loads(file.read_text())
    return "left_out" not in found and not has_failed(found)


def has_failed(found: dict[str, Any]) -> bool:
    """Return whether a part of a stage's result, at any depth, is a failure."""
    return '"failed":' in json.dumps(found)


def run_stage(name: str, given: argparse.Namespace) -> int:
    """Run one stage in this process and save its result."""
    logging.disable_progress_bar()
    device = torch.device(given.device)
    print(f"torch {torch.__version__}, {device_name(device)}")
    start = time.monotonic()
    found = stage(name, given, device)()
    record = {"stage": name, "device": device_name(device), "torch": torch.__version__, **found}
    record["seconds"] = time.monotonic() - start
    result_file(given.out, name).write_text(json.dumps(record, indent=1) + "\n")
    return int(has_failed(found))


def stage(name: str, given: argparse.Namespace, device: torch.device) -> Callable[[], dict[str, Any]]:
    """Return the work of a stage."""
    if name == "tests":
        return tests
    if name == "graphs":
        return lambda: gpu_speed.check_graphs(device)
    if name in REAL:
        return lambda: real(name, given)
    what, _, of = name.partition(" ")
    (plan,) = (plan for plan in plans(tiny=given.tiny) if plan.workload.name == of)
    if what == "training":
        return lambda: gpu_speed.training_stage(plan, device)
    return lambda: gpu_speed.sampling_stage(plan, device, graphs=graphs_work(given.out))


def tests() -> dict[str, Any]:
    """Run the tests marked `gpu`."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
        "tests/gpu",
    ]
    done = subprocess.run(command, cwd=ROOT, check=False)
    return {} if done.returncode == 0 else {"failed": f"pytest ended with code {done.returncode}"}


def graphs_work(out: Path) -> bool:
    """Return whether the stage "graphs" found that they work; without its result, they are not tried."""
    return is_done(out, "graphs")


def real(method: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train a real model, or say why not."""
    seconds = 2.0 if given.tiny else given.seconds
    run = gpu_real.real_run(given.model, given.gsm8k, given.device, seconds)
    if isinstance(run, str):
        print(f"{method}: left out, {run}")
        return {"left_out": run}
    with tempfile.TemporaryDirectory() as folder:
        found = gpu_real.train_for(run, method, Path(folder) / "run", given.device)
        shutil.copy(Path(folder) / "run" / "metrics.jsonl", given.out / f"{method}-metrics.jsonl")
    return found


def result_file(out: Path, name: str) -> Path:
    return out / f"{name.replace(' ', '-')}.json"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


if __name__ == "__main__":
    sys.exit(main())
