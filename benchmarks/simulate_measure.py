"""Predictions of `simulate.py` against runs of `rethink train` on this machine; one core for each process.

A random model of a few million parameters solves made-up problems. Four rates are fitted to two runs of one process: a
decoding step's fixed cost, the operations per second of decoding and of training, and an update's fixed cost. Everything
else is predicted: other numbers of samples, longer replies, and two processes (`torchrun`), whose link is assumed.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from our_worker import odd
from rethink.train.monitor import describe_groups
from rethink.types import Message, Problem, Prompt, Sample, Sampling
from simulate import Cluster, Work, observed, simulate
from workloads import Workload, prompts, question, write_model

SHAPE = Workload("C", 192, 528, 4, 3, 64, prompt_tokens=32, max_tokens=96, n_problems=64)
LOOPBACK_BYTES_PER_S = 1e9
"""What two processes on one machine exchange; an assumption."""

N_UPDATES = 6


@dataclass(frozen=True)
class Size:
    """A run's batch."""

    n_problems: int
    n_samples: int
    max_tokens: int
    n_ranks: int = 1


@dataclass(frozen=True)
class Seen:
    """What a run took, in the median over its updates but for the first, and how long its replies were."""

    sample_s: float
    update_s: float
    lengths: tuple[int, ...]


FITTED = (Size(4, 4, 48), Size(16, 8, 48))
PREDICTED = (Size(16, 2, 48), Size(8, 8, 96))
SPLIT = (Size(16, 8, 48), Size(8, 8, 96))


def command(n_ranks: int) -> list[str]:
    """How a run with this many processes is started."""
    if n_ranks == 1:
        return [sys.executable, "-m", "rethink", "train"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)]
    return [*launcher, "-m", "rethink", "train"]


def run(folder: Path, size: Size) -> Seen | str:
    """What a run of this size took, or why there is none."""
    out = folder / f"run-{size.n_problems}-{size.n_samples}-{size.max_tokens}-{size.n_ranks}"
    settings = [
        *(f"model.path={folder}", "model.device=cpu", f"out={out}", f"updates={N_UPDATES}", "method.name=grpo"),
        *(f"n_problems={size.n_problems}", f"method.n_solve={size.n_samples}", "method.solve.n_steps=1"),
        *(
            f"problems.source={folder / 'problems.jsonl'}",
            "problems.verifier=our_worker:odd",
            "prompts.solve={question}",
        ),
        *(f"sampling.max_tokens={size.max_tokens}", "n_logged_samples=1000", "checkpoint_every=1000"),
    ]
    paths = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    done = subprocess.run(
        [*command(size.n_ranks), str(folder / "recipe.toml"), *settings], env=env, capture_output=True, text=True
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    records, samples = (_lines(out / name) for name in ("metrics.jsonl", "samples.jsonl"))
    sample_s, update_s = (statistics.median(r[stage] for r in records[1:]) for stage in ("sample_s", "update_s"))
    return Seen(sample_s, update_s, tuple(s["n_tokens"] for s in samples))


def work_for(size: Size, seen: Seen, n_parameters: float) -> Work:
    """The run's work, with the lengths of its own replies. Sampler and trainer work in float32."""
    plain = Work("C", n_parameters, SHAPE.layers, 0.0, observed(seen.lengths), SHAPE.prompt_tokens, size.n_problems)
    steps = replace(plain, n_samples=size.n_samples, n_steps=1, n_forwards=3, max_tokens=size.max_tokens)
    return replace(steps, micro_batch_tokens=500_000 // SHAPE.hidden, sampler_bytes=4, sent_bytes=(4, 4, 4))


def rates(step_s: float = 0.0, decode_flops: float = np.inf, flops: float = np.inf, update_s: float = 0.0) -> Cluster:
    """This machine, at these rates and none else."""
    link = LOOPBACK_BYTES_PER_S
    return Cluster("here", flops, np.inf, np.inf, 64, link, link, 1e-4, step_s, 0.0, 0.0, 1, update_s, decode_flops)


def seconds(cluster: Cluster, work: Work, n_ranks: int = 1) -> tuple[float, float]:
    """Predicted sampling (with the wait for the slowest) and training (with what it sends)."""
    found = simulate(cluster, work, n_ranks, n_draws=50)
    return found["prefill"] + found["decode"] + found["wait"] + found["gather"], found["train"] + found["send"]


def fitted(works: list[Work], seen: list[Seen]) -> Cluster:
    """The rates at which the fitted runs take what they took. The trainer leaves out samples without an advantage: its rate
    is one of all sampled tokens."""
    unit = [rates(step_s=1.0), rates(decode_flops=1.0), rates(flops=1.0), rates(update_s=1.0)]
    parts = [[seconds(u, w) for u in unit] for w in works]
    train = np.array([[p[2][1], p[3][1]] for p in parts])
    per_op, update_s = np.linalg.solve(train, [s.update_s for s in seen])
    prefill = [p[2][0] * per_op for p in parts]  # at the rate of training
    sample = np.array([[p[0][0], p[1][0]] for p in parts])
    step_s, per_decoded = np.linalg.solve(sample, [s.sample_s - x for s, x in zip(seen, prefill, strict=True)])
    return rates(float(step_s), 1 / float(per_decoded), 1 / float(per_op), float(update_s))


def compare(ranks: list[int]) -> None:
    """Run, fit, predict, and print both."""
    n_bytes, token_s = token_cost()
    print(f"a gathered token: {n_bytes:.1f} bytes, {token_s * 1e9:.0f} ns to take in")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_parameters = write_problems(folder)
        known = [run(folder, size) for size in FITTED]
        faults = [x for x in known if isinstance(x, str)]
        if faults:
            raise SystemExit(f"a run failed: {faults[0]}")
        seen = [x for x in known if isinstance(x, Seen)]
        here = fitted([work_for(*both, n_parameters) for both in zip(FITTED, seen, strict=True)], seen)
        print(
            f"fitted: decoding step {here.step_s * 1e3:.2f} ms + {here.decode_flops / 1e9:.1f} GFLOP/s, "
            f"training {here.flops / 1e9:.1f} GFLOP/s + {here.update_s * 1e3:.0f} ms an update"
        )
        print(
            f"{'ranks':>5}{'problems':>9}{'samples':>8}{'tokens':>7}{'sample_s':>20}{'update_s':>20}  predicted, measured"
        )
        for size in (*FITTED, *PREDICTED, *(replace(s, n_ranks=n) for n in ranks if n > 1 for s in SPLIT)):
            print(line(here, size, run(folder, size) if size not in FITTED else seen[FITTED.index(size)], n_parameters))


def line(here: Cluster, size: Size, seen: Seen | str, n_parameters: float) -> str:
    head = f"{size.n_ranks:5d}{size.n_problems:9d}{size.n_samples:8d}{size.max_tokens:7d}"
    if isinstance(seen, str):
        return f"{head}  not measured: {seen}"
    both = zip(
        seconds(here, work_for(size, seen, n_parameters), size.n_ranks), (seen.sample_s, seen.update_s), strict=True
    )
    return (
        head
        + "".join(f"{a:9.3f} {b:6.3f} {a / b - 1:+.0%}".rjust(20) for a, b in both)
        + ("  (fitted)" if size in FITTED else "")
    )


def token_cost(n: int = 64, length: int = 1000) -> tuple[float, float]:
    """Bytes of a pickled token, and the seconds in which a rank takes it in: unpickled, and read once for the log."""
    rng = random.Random(0)
    some = [
        sample([rng.randrange(150_000) for _ in range(length)], [-rng.random() for _ in range(length)])
        for _ in range(n)
    ]
    packed = pickle.dumps([some])
    start = time.perf_counter()
    describe_groups(pickle.loads(packed))
    return len(packed) / (n * length), (time.perf_counter() - start) / (n * length)


def sample(ids: list[int], log_probs: list[float]) -> Sample:
    problem = Problem("p", "1 + 1", "2", odd)
    prompt = Prompt(problem, "solve", (Message("user", problem.question),), 5)
    mask = (True,) * len(ids)
    return Sample(prompt, 0, (1, 2, 3), tuple(ids), mask, tuple(log_probs), "", "stop", Sampling(), 0)


def write_problems(folder: Path) -> float:
    """The model, its problems and an empty recipe; returns the number of parameters, the embedding once."""
    write_model(SHAPE, folder)
    rows = [{"id": str(i), "question": question(p), "answer": "odd"} for i, p in enumerate(prompts(SHAPE, 1))]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text("")
    from safetensors.torch import load_file

    return float(sum(t.numel() for t in load_file(folder / "model.safetensors").values()))


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
