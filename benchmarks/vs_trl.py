"""Seconds and memory per update against TRL's GRPOTrainer: `python benchmarks/vs_trl.py [--quick] [--json FILE]`.

Both train the same models on the same prompts, 8 samples each, with GRPO and one optimizer step, in separate processes,
with alternating updates. TRL is installed into a separate environment, `.bench-venv` (or `--env`), on the first run. Prints
medians, spread, the ratio (TRL's seconds over ours) and each side's peak memory.

A and B are random models (`workloads.py`). C is SmolLM2-135M-Instruct (`real_workload.py`), with all weights or, as C-lora,
with an adapter of rank 16 on all linear layers. It needs the model, and a folder in which its weights are kept in float32:

    python benchmarks/real/get_models.py MODELS --only SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/vs_trl.py --workload C C-lora --model MODELS/SmolLM2-135M-Instruct.Q4_1.gguf --cache FOLDER

It checks that both do the same work: about the same number of sampled tokens, and our trainer's loss and gradient norm on
the samples of TRL's first update equal TRL's. `--quick` makes fewer updates, and gives B 8 prompts instead of 32; the
samples and the model do not get smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import real_workload
from peak_memory import peak_bytes
from real_workload import C_LORA, C, RealWorkload
from workloads import A, B, Workload, prompts, question, write_model

HERE = Path(__file__).parent
TRL = "1.16.0"
PEFT = "0.21.2"
TOLERANCE = 0.01
"""Relative tolerance of gradient norms.

Both compute the same float32 sums in another order, and TRL adds 1e-4 to the standard deviation of rewards. That is at
least 0.35 in a group of 8 whose rewards differ, so this moves the norm by at most 0.0003."""


@dataclass(frozen=True)
class Plan:
    """How often a workload is run, and the pieces that TRL splits its batch into: chosen to be fastest for TRL, and in C
    so many that a piece has at most about 1,400 tokens, with which its process needs about 6 GB."""

    workload: Workload | RealWorkload
    n_updates: int
    accumulation: int = 1


def plans(quick: bool) -> dict[str, Plan]:
    """Return the plan of each workload, by name."""
    pieces = 4
    if quick:
        some = [Plan(A, 8), Plan(replace(B, n_problems=8), 3), Plan(C, 2, pieces), Plan(C_LORA, 2, pieces)]
    else:
        some = [Plan(A, 21), Plan(B, 2), Plan(C, 4, pieces), Plan(C_LORA, 4, pieces)]
    return {plan.workload.name: plan for plan in some}


def environment(folder: Path) -> Path:
    """Return the Python of an environment with TRL, peft, and our versions of torch and transformers."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    ours = {"torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__}
    packages = [f"{name}=={version}" for name, version in {**ours, "trl": TRL, "peft": PEFT}.items()]
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        print(
            f"installing {', '.join(packages)} into {folder}: minutes, and gigabytes if torch is for GPUs", flush=True
        )
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(wanted)
    return python


class Side:
    """A worker process; each `update` call makes it train one update."""

    def __init__(self, python: Path | str, script: str, folder: Path) -> None:
        self.script = script
        self.errors = (folder / f"{script}.log").open("w+")
        self.process = subprocess.Popen(
            [python, HERE / script, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=HERE,
        )
        self.about = self._read()
        self.updates: list[dict[str, Any]] = []
        self.peak_bytes: int | None = None

    def update(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.updates.append(self._read())
        print(
            f"{self.script}: update {len(self.updates)}, {self.updates[-1]['seconds']:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"{self.script} ended early:\n{self.errors.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        self.peak_bytes = peak_bytes(self.process.pid)
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()

    def seconds(self) -> list[float]:
        """Return the seconds of each update except the first, which warms up."""
        return [u["seconds"] for u in self.updates[1:]] or [self.updates[0]["seconds"]]


def settings(plan: Plan, folder: Path, model: Path | None) -> dict[str, Any]:
    """Return `workload.json`: what both workers train. `model` is the model's folder if it is a real one; a random one is
    written to `folder`."""
    workload = plan.workload
    if isinstance(workload, RealWorkload):
        assert model is not None
        special = real_workload.settings(workload, model, plan.n_updates)
    else:
        write_model(workload, folder)
        asked = prompts(workload, plan.n_updates)
        special = {
            "model": str(folder),
            "lora_rank": 0,
            "questions": [question(prompt) for prompt in asked],
            "prompts": asked,
        }
    return {
        "n_problems": workload.n_problems,
        "n_samples": workload.n_samples,
        "max_tokens": workload.max_tokens,
        "n_updates": plan.n_updates,
        "lr": 1e-5,
        "accumulation": plan.accumulation,
        **special,
    }


def measure(python: Path, plan: Plan, model: Path | None) -> dict[str, Any]:
    """Run updates of both, interleaved; which one is first alternates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "workload.json").write_text(json.dumps(settings(plan, folder, model)))
        sides = {"rethink": Side(sys.executable, "our_worker.py", folder), "TRL": Side(python, "trl_worker.py", folder)}
        for n in range(plan.n_updates):
            for side in list(sides.values())[:: 1 if n % 2 else -1]:
                side.update()
        for side in sides.values():
            side.end()
        checked = same_work(folder, sides["TRL"].updates[0])
    return summary(sides["rethink"], sides["TRL"], checked)


def same_work(folder: Path, first: dict[str, Any]) -> dict[str, float]:
    """Return loss and gradient norm of TRL's first update, theirs and ours on the same samples."""
    file = folder / "drawn.json"
    file.write_text(json.dumps(first))
    command = [sys.executable, *map(str, (HERE / "our_worker.py", folder, "--check", file))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE)
    ours = json.loads(done.stdout.splitlines()[-1])
    return {
        "trl_loss": first["loss"],
        "our_loss": ours["loss"],
        "trl_grad_norm": first["grad_norm"],
        "our_grad_norm": ours["grad_norm"],
        "prompt_tokens": ours["prompt_tokens"],
    }


def summary(ours: Side, theirs: Side, checked: dict[str, float]) -> dict[str, Any]:
    """Return all numbers of a workload."""
    mine, trl = statistics.median(ours.seconds()), statistics.median(theirs.seconds())
    n_trl = statistics.fmean(sum(map(len, u["ids"])) for u in theirs.updates)
    n_mine = statistics.fmean(u["n_sampled_tokens"] for u in ours.updates)
    off = abs(checked["our_grad_norm"] / checked["trl_grad_norm"] - 1)
    same = off < TOLERANCE and abs(checked["our_loss"] - checked["trl_loss"]) < 1e-3 and 0.8 < n_mine / n_trl < 1.25
    return {
        "ratio": trl / mine,
        "rethink_s": mine,
        "trl_s": trl,
        "rethink_all_s": ours.seconds(),
        "trl_all_s": theirs.seconds(),
        "stages_s": {k: statistics.median(u[k] for u in ours.updates) for k in ("sample_s", "grade_s", "update_s")},
        "rethink_tokens": n_mine,
        "trl_tokens": n_trl,
        "rethink_peak_bytes": ours.peak_bytes,
        "trl_peak_bytes": theirs.peak_bytes,
        "same_work": same,
        **checked,
        "versions": {**theirs.about, **ours.about},
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Print a few lines per workload."""
    for who, key in (("rethink", "rethink"), ("TRL", "trl")):
        every = found[f"{key}_all_s"]
        spread = f"{min(every):.2f} to {max(every):.2f} s, {len(every)} updates"
        size = f"{found[f'{key}_tokens']:,.0f} tokens, {gigabytes(found[f'{key}_peak_bytes'])}"
        print(f"{name} {who:<8} {found[f'{key}_s']:8.2f} s/update ({spread}), {size}")
    stages = "  ".join(f"{key[:-2]} {value:.2f}" for key, value in found["stages_s"].items())
    print(f"{name} ratio    {found['ratio']:8.2f}   ({stages})")
    norms = f"gradient norm {found['our_grad_norm']:.5f} and {found['trl_grad_norm']:.5f}"
    losses = f"loss {found['our_loss']:.5f} and {found['trl_loss']:.5f}"
    print(f"{name} {'the same work' if found['same_work'] else 'NOT THE SAME WORK'}: {norms}, {losses}", flush=True)


def gigabytes(n_bytes: int | None) -> str:
    """Return a peak of memory in words."""
    return "peak memory unknown" if n_bytes is None else f"{n_bytes / 1e9:.2f} GB at most"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer updates, and 8 prompts in B")
    parser.add_argument("--workload", nargs="+", choices=list(plans(False)), default=["A", "B"], metavar="NAME")
    parser.add_argument(
        "--updates", type=int, help="updates of each side, instead of the plan's; the first one warms up"
    )
    parser.add_argument("--model", type=Path, help="C's model: its GGUF file, or a model folder")
    parser.add_argument(
        "--cache", type=Path, help="folder for the weights of --model in float32, outside the repository"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--env", type=Path, default=HERE.parent / ".bench-venv")
    given = parser.parse_args(arguments)
    if not {"A", "B"}.issuperset(given.workload):
        if given.model is None or not given.model.exists():
            parser.error("C needs --model, a GGUF file (benchmarks/real/get_models.py fetches it) or a model folder")
        if given.cache is None and given.model.is_file():
            parser.error("C needs --cache, a folder in which the weights of a GGUF file are kept in float32")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    python = environment(given.env)
    results = {}
    for name, plan in plans(given.quick).items():
        if name in given.workload:
            real = isinstance(plan.workload, RealWorkload)
            model = real_workload.plain_folder(given.model, given.cache) if real else None
            sized = replace(plan, n_updates=given.updates or plan.n_updates)
            results[name] = measure(python, sized, model)
            show(name, results[name])
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(found["same_work"] for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
