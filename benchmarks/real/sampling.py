"""Sampling with a real model on a CPU: rethink's sampler against `generate` of transformers, llama.cpp and vLLM.

    PYTHONPATH=benchmarks python benchmarks/real/sampling.py MODEL.gguf [--llama-python PATH] [--vllm-python PATH]

All continue the same prompts of 100 tokens by exactly 64 tokens at temperature 1; no end token ends a reply. Engines take
turns, one process at a time, in another order in every second round. llama.cpp computes with the quantized weights of the
GGUF file, the others with the same weights dequantized: in bfloat16 if the processor has instructions for it, else in
float32.
`--llama-python` and `--vllm-python` name the Python of an environment with llama-cpp-python, or with vLLM's CPU build.

Each measurement is a row of benchmarks/results/real_sampling.csv as soon as it is made. `--minutes` limits a command; the
same command continues where it stopped. The table has medians over rounds, of the run's rows alone (`--run`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from real.result_files import RESULTS, append_row, processor, read_rows
from real.sampling_table import bytes_per_step, table
from rethink.models import bundled
from rethink.models.device import prefers_bfloat16
from rethink.models.gguf.folder import describe, model_folder
from rethink.models.gguf.locate import find, is_gguf

HERE = Path(__file__).parent
ENGINES = ("rethink", "transformers", "llama", "vllm")
FILE = RESULTS / "real_sampling.csv"
CHECKED = -1
"""The seed of the prompt that all engines continue greedily at first, in every round."""


@dataclass(frozen=True)
class Plan:
    """What to measure. `pythons` are the interpreters of the engines that take part; `gguf` is None for a model folder."""

    name: str
    folder: Path
    gguf: Path | None
    dtype: str
    pythons: dict[str, str]
    rows: Sequence[int]
    rounds: int
    prompt_tokens: int
    reply_tokens: int
    threads: int
    run: str
    deadline: float

    def known_columns(self) -> dict[str, str]:
        """Return the columns that all rows of this run share."""
        return {
            "run": self.run,
            "processor": processor(),
            "threads": str(self.threads),
            "model": self.name,
            "prompt_tokens": str(self.prompt_tokens),
            "reply_tokens": str(self.reply_tokens),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file; a model folder will do without llama.cpp")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=12.0, help="begin no measurement after so many minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="leave the others out")
    parser.add_argument("--llama-python", help="the Python of an environment with llama-cpp-python")
    parser.add_argument("--vllm-python", help="the Python of an environment with vLLM's CPU build")
    parser.add_argument("--run", default=str(date.today()), help="a name for this run's rows (default: the date)")
    parser.add_argument("--out", type=Path, default=FILE)
    given = parser.parse_args(arguments)
    plan = make_plan(given)
    failed = run(plan, given.out)
    weights = describe(plan.gguf) if plan.gguf else "float32 weights"
    print(f"{plan.name} ({weights}), {plan.dtype}, {plan.threads} threads of {processor()}, run {plan.run}")
    print(f"prompts of {plan.prompt_tokens} tokens, replies of {plan.reply_tokens}; medians over rounds\n")
    print(table(rows_of(plan, given.out)))
    if failed:
        raise SystemExit(f"failed: {', '.join(sorted(failed))}")


def make_plan(given: argparse.Namespace) -> Plan:
    """Return what to measure. A GGUF file is dequantized first, which takes a minute or more, once."""
    gguf = find(given.model) if is_gguf(given.model) else None
    folder = Path(bundled.resolve(given.model)) if gguf is None else model_folder(gguf)
    dtype = given.dtype
    if dtype == "auto":
        hidden_size = AutoConfig.from_pretrained(folder).get_text_config().hidden_size
        dtype = "bfloat16" if prefers_bfloat16(torch.device("cpu"), hidden_size) else "float32"
    pythons = {"rethink": sys.executable, "transformers": sys.executable}
    if given.llama_python and gguf is not None:
        pythons["llama"] = given.llama_python
    if given.vllm_python:
        pythons["vllm"] = given.vllm_python
    return Plan(
        name=Path(given.model).name,
        folder=folder,
        gguf=gguf,
        dtype=dtype,
        pythons={name: python for name, python in pythons.items() if name in given.engines},
        rows=sorted(given.rows),
        rounds=given.rounds,
        prompt_tokens=given.prompt_tokens,
        reply_tokens=given.reply_tokens,
        threads=given.threads,
        run=given.run,
        deadline=time.time() + 60 * given.minutes,
    )


def run(plan: Plan, out: Path) -> set[str]:
    """Make the measurements that the file lacks, until the time is up. Return the engines that failed."""
    failed: set[str] = set()
    starts: dict[str, list[int]] = {}
    for number in range(plan.rounds):
        for engine in list(plan.pythons)[:: -1 if number % 2 else 1]:
            done = {row["rows"] for row in rows_of(plan, out) if (row["engine"], row["round"]) == (engine, str(number))}
            missing = [n for n in plan.rows if str(n) not in done]
            if not missing or engine in failed or time.time() > plan.deadline:
                continue
            version = ""
            try:
                for found in work(plan, engine, number, missing):
                    if "start" in found:
                        version = found["version"]
                        starts[f"{engine} {version}"] = found["start"]
                    else:
                        append_row(out, new_row(plan, engine, version, number, found))
            except subprocess.CalledProcessError as error:
                failed.add(engine)
                print(f"{engine} failed:\n{error.stderr}", file=sys.stderr)
    for name, ids in starts.items():
        print(f"{name} continues a prompt greedily with {ids}")
    return failed


def work(plan: Plan, engine: str, number: int, missing: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield what a worker process reports. Raise CalledProcessError, with the end of its log, if it fails."""
    job = {
        "engine": engine,
        "folder": str(plan.folder),
        "gguf": str(plan.gguf or ""),
        "dtype": plan.dtype,
        "threads": plan.threads,
        "rows": missing,
        "reply_tokens": plan.reply_tokens,
        "checked_prompt": prompts(plan.folder, 1, plan.prompt_tokens, CHECKED)[0],
        "prompts": prompts(plan.folder, max(plan.rows), plan.prompt_tokens, number),
        "deadline": plan.deadline,
    }
    python = plan.pythons[engine]
    with tempfile.TemporaryDirectory() as name:
        file, log = Path(name) / "job.json", Path(name) / "log"
        file.write_text(json.dumps(job))
        command = [python, str(HERE / "sampling_worker.py"), str(file)]
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(python, plan.threads)
            ) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    print(f"round {number + 1}, {engine}: {line.strip()}", file=sys.stderr, flush=True)
                    yield json.loads(line)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if code:
            raise subprocess.CalledProcessError(code, command, stderr=log.read_text()[-3000:])


def environment(python: str, threads: int) -> dict[str, str]:
    """Return a worker's environment: so many threads, and this folder's modules; other paths only for our own Python."""
    paths = [str(HERE.parent)]
    if python == sys.executable:
        paths += [path for path in sys.path if path]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": os.pathsep.join(paths)}


def prompts(folder: Path, n_rows: int, n_tokens: int, seed: int) -> list[list[int]]:
    """Return the ids of different prompts, each of exactly so many tokens."""
    words = AutoTokenizer.from_pretrained(folder)
    draw = random.Random(seed)
    found: list[list[int]] = []
    for _ in range(n_rows):
        ids: list[int] = []
        while len(ids) < n_tokens:
            day, people, boxes = draw.randrange(1, 31), draw.randrange(2, 99), draw.randrange(2, 99)
            text = f"On day {day} , {people} people carried {boxes} boxes each . "
            ids += words.encode(text, add_special_tokens=False)
        found.append(ids[:n_tokens])
    return found


def new_row(plan: Plan, engine: str, version: str, number: int, found: dict[str, Any]) -> dict[str, object]:
    """Return a measurement as a row of the file."""
    own = {"engine": engine, "version": version, "dtype": plan.dtype if engine != "llama" else "quantized"}
    timed = {name: f"{found[name]:.6g}" for name in ("first_token_s", "total_s", "tokens_per_s", "steps_per_s")}
    n_bytes = bytes_per_step(engine, plan.folder, plan.gguf, plan.dtype)
    sizes = {"bytes_per_step": n_bytes, "peak_bytes": found["peak_bytes"]}
    return {**plan.known_columns(), **own, "rows": found["rows"], "round": number, **timed, **sizes}


def rows_of(plan: Plan, file: Path) -> list[dict[str, str]]:
    """Return the rows of this run with this model, in the present dtype."""
    known = plan.known_columns()
    found: list[dict[str, str]] = []
    for row in read_rows(file):
        if known.items() <= row.items() and row["dtype"] in (plan.dtype, "quantized"):
            found.append(row)
    return found


if __name__ == "__main__":
    main()
